/* Functions called from Python whose arguments are of other kinds than those of the KERNELS. */

#define ACTIVATIONS(A) A(leaky_relu) A(elu) A(sigmoid) A(tanh) A(softplus) A(silu) A(mish) A(gelu) A(gelu_tanh)
#define ACTIVATION_KERNEL(NAME) {"rmnnn", fit_activation, NAME##_float32, NAME##_float64},
#define SLOPE_KERNEL(NAME) {"rmwnnn", fit_activation_slope, NAME##_with_slope_float32, NAME##_with_slope_float64},
static const Kernel activations[] = {ACTIVATIONS(ACTIVATION_KERNEL)}, slopes[] = {ACTIVATIONS(SLOPE_KERNEL)};

/* Call one of the activations; its position in the table is the number after the arrays. */
static PyObject *activate(const Kernel *kernels, PyObject *const *arguments, Py_ssize_t given, Py_ssize_t arrays) {
    if (given != arrays + 3) Py_RETURN_FALSE;
    const double kind = PyFloat_AsDouble(arguments[arrays]);
    if (kind == -1 && PyErr_Occurred()) return NULL;
    if (!(kind >= 0 && kind < sizeof slopes / sizeof *slopes)) Py_RETURN_FALSE;
    return call(&kernels[(size_t)kind], arguments, given);
}

static PyObject *activation(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    return activate(activations, arguments, given, 2);
}

static PyObject *activation_slope(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    return activate(slopes, arguments, given, 3);
}

typedef struct {
    Job job; /* its array[2], the sums of blocks, is set by run_rows */
    void *bias;
    int rectified;
} RowStep;

/* Fit one layer: a weight and a bias for a row of `height` numbers. Return the width, or 0. */
static size_t fit_row(RowStep *step, size_t height, const Py_buffer *weight, const Py_buffer *bias) {
    const size_t width = weight->ndim == 2 ? (size_t)weight->shape[1] : 0;
    if (!height || !width || !is_matrix(weight, height, width) || length(bias) != width) return 0;
    step->job = (Job){.rows = height, .width = width, .count = (height + BAND - 1) / BAND, .align = 1};
    step->job.cost = BAND * width; /* it reads memory, so it costs as much as ReLU */
    step->job.array[1] = weight->buf;
    step->bias = bias->buf;
    return width;
}

/* Compute steps one after the other from the row x into y. Return 0 if there is no memory. */
static int run_rows(RowStep *steps, int count, char type, void *x, void *y) {
    const size_t size = type == 'f' ? sizeof(float) : sizeof(double);
    size_t room = 0, widest = 0, cost = 0;
    for (int i = 0; i < count; i++) {
        const size_t width = steps[i].job.width, parts = steps[i].job.count * width;
        room = parts > room ? parts : room;
        widest = width > widest ? width : widest;
        cost += steps[i].job.count * steps[i].job.cost;
    }
    double few[1024];
    char *scratch = (char *)few;
    if ((room + 2 * widest) * size > sizeof few && !(scratch = malloc((room + 2 * widest) * size))) return 0;
    char *rows[2] = {scratch + room * size, scratch + (room + widest) * size};
    PyThreadState *state = cost >= RELEASED ? PyEval_SaveThread() : NULL;
    for (int i = 0; i < count; i++) {
        RowStep *step = &steps[i];
        void *out = i == count - 1 ? y : rows[i % 2];
        step->job.array[0] = i ? rows[(i - 1) % 2] : x;
        step->job.array[2] = scratch;
        step->job.work = type == 'f' ? affine_parts_float32 : affine_parts_float64;
        run(&step->job);
        if (type == 'f') add_parts_float32(&step->job, step->bias, out, step->rectified);
        else add_parts_float64(&step->job, step->bias, out, step->rectified);
    }
    if (state) PyEval_RestoreThread(state);
    if (scratch != (char *)few) free(scratch);
    return 1;
}

/* (x, weight, bias, y) */
static PyObject *affine_row(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[4];
    RowStep step = {.rectified = 0};
    const char type = given == 4 ? open_views(arguments, "rrrw", 4, v) : 0;
    if (!type) Py_RETURN_FALSE;
    const size_t width = fit_row(&step, length(&v[0]), &v[1], &v[2]);
    const int done = width && length(&v[3]) == width && run_rows(&step, 1, type, v[0].buf, v[3].buf);
    close_views(v, 4);
    return PyBool_FromLong(done);
}

/* (x, y, rectified, weight, bias, weight, bias, ...): bit i of `rectified` says that a ReLU follows the i-th pair. */
static PyObject *dense_row(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    enum { LAYERS = 16 };
    Py_buffer v[2 + 2 * LAYERS];
    PyObject *arrays[2 + 2 * LAYERS];
    char modes[3 + 2 * LAYERS] = "rw";
    RowStep steps[LAYERS];
    const int count = (int)(given - 3) / 2;
    if (given < 5 || given % 2 == 0 || count > LAYERS) Py_RETURN_FALSE;
    const long rectified = PyLong_AsLong(arguments[2]);
    if (rectified == -1 && PyErr_Occurred()) return NULL;
    arrays[0] = arguments[0];
    arrays[1] = arguments[1];
    for (int i = 0; i < 2 * count; i++) arrays[2 + i] = arguments[3 + i];
    memset(modes + 2, 'r', (size_t)(2 * count));
    const char type = open_views(arrays, modes, 2 + 2 * count, v);
    if (!type) Py_RETURN_FALSE;
    size_t width = length(&v[0]);
    for (int i = 0; i < count && width; i++) {
        width = fit_row(&steps[i], width, &v[2 + 2 * i], &v[3 + 2 * i]);
        steps[i].rectified = rectified >> i & 1;
    }
    const int done = width && length(&v[1]) == width && run_rows(steps, count, type, v[0].buf, v[1].buf);
    close_views(v, 2 + 2 * count);
    return PyBool_FromLong(done);
}

/* (x, classes, gradient, smoothing): the mean loss, or None */
static PyObject *cross_entropy(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[3];
    Job job = {.align = 1};
    if (given != 4) Py_RETURN_NONE;
    if (!read_numbers(&job, arguments + 3, 1)) return NULL;
    const char type = open_views(arguments, "riw", 3, v);
    if (!type) Py_RETURN_NONE;
    const size_t rows = length(&v[1]), width = rows ? length(&v[0]) / rows : 0;
    const int64_t *classes = v[1].buf;
    int fits = width && is_matrix(&v[0], rows, width) && is_matrix(&v[2], rows, width);
    for (size_t i = 0; i < rows && fits; i++) fits = (uint64_t)classes[i] < width;
    double few[256], *losses = few, loss = 0;
    if (fits && rows > sizeof few / sizeof *few) fits = (losses = malloc(rows * sizeof *losses)) != NULL;
    if (fits) {
        job.rows = rows;
        job.width = width;
        by_row(&job, 12);
        for (int i = 0; i < 3; i++) job.array[i] = v[i].buf;
        job.array[3] = losses;
        job.work = type == 'f' ? cross_entropy_float32 : cross_entropy_float64;
        run_released(&job);
        for (size_t i = 0; i < rows; i++) loss += losses[i];
    }
    if (losses != few) free(losses);
    close_views(v, 3);
    if (!fits) Py_RETURN_NONE;
    return PyFloat_FromDouble(loss / (double)rows);
}

/* (x, mask, y, state, least, kept): see dropout.h */
static PyObject *dropout(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    static const Kernel kernel = {"rwminn", fit_dropout, dropout_float32, dropout_float64};
    return call(&kernel, arguments, given);
}

static void copy_rows(const Job *job, size_t first, size_t stop) {
    const char *from = job->array[0];
    const int64_t *indices = job->array[1];
    char *to = job->array[2];
    for (size_t i = first; i < stop; i++)
        memcpy(to + i * job->width, from + own_class(indices, i, job->rows) * job->width, job->width);
}

/* (x, indices, out): out[i] = x[indices[i]], for arrays of any type; False if an index is out of range. */
static PyObject *gather(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[3];
    const int flags[] = {PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT,
                         PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE};
    if (given != 3) Py_RETURN_FALSE;
    for (int i = 0; i < 3; i++)
        if (PyObject_GetBuffer(arguments[i], &v[i], flags[i]) < 0) {
            PyErr_Clear();
            close_views(v, i);
            Py_RETURN_FALSE;
        }
    int fits = v[0].ndim && v[2].ndim == v[0].ndim && v[1].ndim == 1 && v[1].shape[0] == v[2].shape[0] &&
               type_of(&v[1]) == 'i' && v[0].itemsize == v[2].itemsize && !strcmp(v[0].format, v[2].format) &&
               !strchr(v[0].format, 'O') && /* references to objects would have to be counted */
               v[0].shape[0] && v[2].shape[0] && apart(v, "rrw", 3);
    for (int axis = 1; axis < v[0].ndim && fits; axis++) fits = v[0].shape[axis] == v[2].shape[axis];
    Job job = {.work = copy_rows, .align = 1, .array = {v[0].buf, v[1].buf, v[2].buf}};
    const int64_t *indices = v[1].buf;
    if (fits) {
        job.rows = (size_t)v[0].shape[0];
        job.count = (size_t)v[2].shape[0];
        job.width = (size_t)v[0].len / job.rows;
        job.cost = job.width / sizeof(float) + 1;
        for (size_t i = 0; i < job.count && fits; i++) fits = (uint64_t)indices[i] < job.rows;
    }
    if (fits) run_released(&job);
    close_views(v, 3);
    return PyBool_FromLong(fits);
}

static PyObject *threads(PyObject *self, PyObject *unused) {
    return PyLong_FromLong(pool.allowed ? pool.allowed : allowed_threads());
}
