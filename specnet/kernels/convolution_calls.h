/* The functions of convolution that Python calls. `geometry` is an int64 array: stride, dilation and padding before the
   input, of rows and of columns each, and the number of groups. */

enum { STRIDE, DILATION = 2, PADDING = 4, GROUPS = 6, GEOMETRY };

/* Read the geometry of x, weight and y, which all have four axes. Return 0 if they do not fit together. */
static int read_geometry(Conv *c, const Py_buffer *x, const Py_buffer *weight, const Py_buffer *y, const Py_buffer *given) {
    int64_t numbers[GEOMETRY];
    if (x->ndim != 4 || weight->ndim != 4 || y->ndim != 4 || given->ndim != 1 || given->shape[0] != GEOMETRY) return 0;
    memcpy(numbers, given->buf, sizeof numbers); /* before they are checked: another thread may change the array */
    for (int i = 0; i < GEOMETRY; i++)
        if (numbers[i] < (i / 2 == PADDING / 2 ? 0 : 1) || numbers[i] > FARTHEST) return 0;
    c->images = (size_t)x->shape[0];
    c->channels = (size_t)x->shape[3];
    c->filters = (size_t)y->shape[3];
    c->groups = (size_t)numbers[GROUPS];
    for (int axis = 0; axis < 2; axis++) {
        c->kernel[axis] = (size_t)weight->shape[axis];
        c->stride[axis] = numbers[STRIDE + axis];
        c->dilation[axis] = numbers[DILATION + axis];
        c->padding[axis] = numbers[PADDING + axis];
        c->spread[axis] = 1;
        ptrdiff_t reach, span;
        if (__builtin_mul_overflow((ptrdiff_t)y->shape[1 + axis], c->stride[axis], &reach) || reach > 2 * (ptrdiff_t)FARTHEST)
            return 0;
        if (__builtin_mul_overflow((ptrdiff_t)c->kernel[axis], c->dilation[axis], &span) || span > FARTHEST) return 0;
    }
    c->in = (Plane){.data = x->buf, .height = (size_t)x->shape[1], .width = (size_t)x->shape[2], .channels = c->channels};
    c->out = (Plane){.data = y->buf, .height = (size_t)y->shape[1], .width = (size_t)y->shape[2], .channels = c->filters};
    c->depthwise = c->groups > 1 && c->groups == c->channels && c->groups == c->filters;
    return c->images == (size_t)y->shape[0] && length(x) && length(y) && length(weight) &&
           c->channels % c->groups == 0 && c->filters % c->groups == 0 &&
           (size_t)weight->shape[2] == c->channels / c->groups && (size_t)weight->shape[3] == c->filters;
}

/* Exchange x and y. */
static void turn_back(Conv *c) {
    const Plane in = c->in;
    c->in = c->out;
    c->out = in;
    c->back = 1;
    for (int axis = 0; axis < 2; axis++) {
        c->padding[axis] = (ptrdiff_t)(c->kernel[axis] - 1) * c->dilation[axis] - c->padding[axis];
        c->spread[axis] = c->stride[axis];
        c->stride[axis] = 1;
    }
}

static size_t panels_of(const Conv *c) { return (group_outputs(c) - 1) / (2 * c->tiles.lanes) + 1; }

static int set_tiles(Conv *c, char type) {
    c->tiles = type == 'f' ? tiles_for_float32(group_outputs(c)) : tiles_for_float64(group_outputs(c));
    return finish_geometry(c, type == 'f' ? sizeof(float) : sizeof(double));
}

/* Return 0 with an error set if there is no memory. */
static int run_convolution(Conv *c, char type, const void *bias) {
    const size_t item = type == 'f' ? sizeof(float) : sizeof(double),
                 panels = group_outputs(c) > c->tiles.lanes ? panels_of(c) * 2 : 1,
                 width = panels * c->tiles.lanes * group_count(c),
                 products = c->kernel[0] * c->kernel[1] * group_inputs(c);
    Job job = {.work = type == 'f' ? convolve_float32 : convolve_float64, .count = c->images * c->out.height, .align = 1,
               .cost = c->out.width * c->out.channels * (products / (MACS * (size_t)(c->spread[0] * c->spread[1])) + 1)};
    job.array[0] = c;
    c->packed = allocated(width * (products + 1), item);
    if (!c->packed) {
        PyErr_NoMemory();
        return 0;
    }
    c->bias = bias ? (char *)c->packed + width * products * item : NULL;
    if (type == 'f') pack_float32(c, bias);
    else pack_float64(c, bias);
    const int done = run_released(&job);
    free(c->packed);
    return done;
}

/* (x, weight, bias, y, geometry, rectified), back without the last; without a bias its array is empty. */
static PyObject *convolve_by(PyObject *const *arguments, Py_ssize_t given, int back) {
    Py_buffer v[5];
    Job job = {.align = 1};
    if (given != (back ? 5 : 6)) Py_RETURN_FALSE;
    if (!back && !read_numbers(&job, arguments + 5, 1)) return NULL;
    const char type = open_views(arguments, "rrrwi", 5, v);
    if (!type) Py_RETURN_FALSE;
    Conv c = {.weight = v[1].buf, .rectified = job.number[0] != 0};
    int fits = read_geometry(&c, &v[back ? 3 : 0], &v[1], &v[back ? 0 : 3], &v[4]);
    if (fits && back) turn_back(&c);
    fits = fits && (!length(&v[2]) || length(&v[2]) == c.out.channels) && set_tiles(&c, type);
    const int failed = fits && !run_convolution(&c, type, length(&v[2]) ? v[2].buf : NULL);
    close_views(v, 5);
    return failed ? NULL : PyBool_FromLong(fits);
}

static PyObject *convolve(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    return convolve_by(arguments, given, 0);
}

static PyObject *convolve_back(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    return convolve_by(arguments, given, 1);
}

/* Sum the gradient of the weight. Return 0 with an error set if there is no memory. */
static int run_gradient(Conv *c, char type) {
    const size_t item = type == 'f' ? sizeof(float) : sizeof(double), positions = c->kernel[0] * c->kernel[1];
    c->panels = panels_of(c) * group_count(c);
    const size_t size = c->panels * positions * group_inputs(c) * 2 * c->tiles.lanes, most = PARTS / size,
                 parts = most < 1 ? 1 : most > MOST_PARTS ? MOST_PARTS : most;
    c->parts = parts < c->images ? parts : c->images;
    c->sums = allocated(c->parts * size, item);
    if (!c->sums) {
        PyErr_NoMemory();
        return 0;
    }
    Job job = {.work = type == 'f' ? convolve_weight_float32 : convolve_weight_float64, .count = c->parts * c->panels,
               .align = 1, .array = {c}};
    job.cost = c->images * c->out.height * c->out.width / c->parts * (size / c->panels / MACS + 1);
    int done = run_released(&job);
    if (done) {
        job.work = type == 'f' ? add_parts_of_weight_float32 : add_parts_of_weight_float64;
        job.count = positions;
        job.cost = c->parts * size / positions;
        done = run_released(&job);
    }
    free(c->sums);
    return done;
}

/* (x, dy, gradient, geometry) */
static PyObject *convolve_weight(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[4];
    if (given != 4) Py_RETURN_FALSE;
    const char type = open_views(arguments, "rrwi", 4, v);
    if (!type) Py_RETURN_FALSE;
    Conv c = {.gradient = v[2].buf};
    const int fits = read_geometry(&c, &v[0], &v[2], &v[1], &v[3]) && set_tiles(&c, type);
    const int failed = fits && !run_gradient(&c, type);
    close_views(v, 4);
    return failed ? NULL : PyBool_FromLong(fits);
}
