/* The functions of recurrent layers and attention that Python calls. Arrays that may be missing are then empty. */

static int is_box(const Py_buffer *view, size_t first, size_t second, size_t third) {
    return view->ndim == 3 && (size_t)view->shape[0] == first && (size_t)view->shape[1] == second &&
           (size_t)view->shape[2] == third;
}

/* Whether an array holds `steps` matrices, or one that is overwritten; set the numbers from one to the next. */
static int are_steps(const Py_buffer *view, size_t steps, size_t batch, size_t width, size_t *step) {
    if (view->ndim != 3) return 0;
    *step = (size_t)view->shape[0] == steps ? batch * width : 0;
    return is_box(view, *step ? steps : 1, batch, width);
}

static int empty_or_vector(const Py_buffer *view, size_t size) { return !length(view) || (view->ndim == 1 && length(view) == size); }

static int empty_or_matrix(const Py_buffer *view, size_t rows, size_t width) {
    return !length(view) || is_matrix(view, rows, width);
}

static const void *present(const Py_buffer *view) { return length(view) ? view->buf : NULL; }

static Tiles tiles_of(char type, size_t columns) { return type == 'f' ? tiles_for_float32(columns) : tiles_for_float64(columns); }

/* Pack a right factor into *room, and move that behind it. A matrix that few rows are multiplied with is read where it
   lies, if it fills its vectors. */
static void pack_right(Right *right, const Tiles *tiles, char type, const void *matrix, size_t row_step, size_t column_step,
                       int few, char **room) {
    const size_t item = type == 'f' ? sizeof(float) : sizeof(double);
    if (few && column_step == 1 && right->columns % tiles->lanes == 0) {
        right->numbers = matrix;
        right->row_step = row_step;
        return;
    }
    right->numbers = *room;
    if (type == 'f') pack_matrix_float32(tiles, matrix, right->depth, right->columns, row_step, column_step, 1, (float *)*room);
    else pack_matrix_float64(tiles, matrix, right->depth, right->columns, row_step, column_step, 1, (double *)*room);
    *room += packed_size(tiles, right->depth, right->columns) * item;
}

/* Copy a bias into *room with zeros behind it, as a tile adds whole vectors. */
static const void *padded_bias(const void *bias, const Tiles *tiles, size_t columns, size_t item, char **room) {
    if (!bias) return NULL;
    const size_t size = packed_size(tiles, 1, columns) * item;
    char *to = *room;
    memset(to, 0, size);
    memcpy(to, bias, columns * item);
    *room += size;
    return to;
}

/* The rows of each thread, in whole tiles. */
static size_t share_of(size_t rows, const Tiles *tiles) {
    const size_t threads = (size_t)(pool.allowed ? pool.allowed : allowed_threads()), share = (rows + threads - 1) / threads;
    return (share + tiles->rows - 1) / tiles->rows * tiles->rows;
}

/* Run a pass for all sequences: each thread takes as many of them, in whole tiles. Return 0 with an error set. */
static int run_pass(Recurrence *p, Job *job, size_t width) {
    job->count = p->batch;
    job->align = share_of(p->batch, &p->tiles);
    job->cost = p->steps * width * ((p->features + p->units) / MACS + GATE) + 1;
    job->array[0] = p;
    return run_released(job);
}

/* Pack the weights and run all steps; `gates` is 4 for an lstm, 3 for a gru. Return 0 with an error set. */
static int run_forward(Recurrence *p, char type, const Py_buffer *weight, const Py_buffer *recurrent, size_t gates) {
    const size_t item = type == 'f' ? sizeof(float) : sizeof(double), units = p->units, width = gates * units;
    const int few = p->steps * p->batch < FEW_ROWS, is_gru = gates == 3;
    p->tiles = tiles_of(type, width);
    p->weight = (Right){.depth = p->features, .columns = width};
    p->recurrent = (Right){.depth = units, .columns = is_gru ? 2 * units : width};
    p->candidate = (Right){.depth = units, .columns = is_gru ? units : 0};
    size_t numbers = 0;
    const Right *all[] = {&p->weight, &p->recurrent, &p->candidate};
    for (int i = 0; i < 3; i++) numbers += packed_size(&p->tiles, all[i]->depth + 1, all[i]->columns);
    char *const packed = allocated(numbers, item), *room = packed;
    if (!packed) {
        PyErr_NoMemory();
        return 0;
    }
    pack_right(&p->weight, &p->tiles, type, weight->buf, width, 1, few, &room);
    pack_right(&p->recurrent, &p->tiles, type, recurrent->buf, width, 1, few, &room);
    if (is_gru)
        pack_right(&p->candidate, &p->tiles, type, (const char *)recurrent->buf + 2 * units * item, width, 1, few, &room);
    p->bias = padded_bias(p->bias, &p->tiles, width, item, &room);
    p->recurrent_bias = padded_bias(p->recurrent_bias, &p->tiles, units, item, &room);
    Job job = {.work = is_gru ? (type == 'f' ? gru_float32 : gru_float64) : (type == 'f' ? lstm_float32 : lstm_float64)};
    const int done = run_pass(p, &job, width);
    free(packed);
    return done;
}

/* Read the sizes from x, weight, recurrent_weight and bias, the first views. Return the columns of all gates, or 0. */
static size_t read_forward(Recurrence *p, const Py_buffer *v, size_t gates) {
    if (v[0].ndim != 3 || !length(v) || v[2].ndim != 2 || !length(&v[2])) return 0;
    p->steps = (size_t)v[0].shape[0];
    p->batch = (size_t)v[0].shape[1];
    p->features = (size_t)v[0].shape[2];
    p->units = (size_t)v[2].shape[0];
    p->x = v[0].buf;
    p->bias = present(&v[3]);
    const size_t width = gates * p->units;
    return is_matrix(&v[1], p->features, width) && is_matrix(&v[2], p->units, width) && empty_or_vector(&v[3], width) ? width : 0;
}

/* (x, weight, recurrent_weight, bias, counts, gates, h, c) */
static PyObject *lstm(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[8];
    const char type = given == 8 ? open_views(arguments, "rrrrrwww", 8, v) : 0;
    if (!type) Py_RETURN_FALSE;
    Recurrence p = {.counts = present(&v[4]), .gates = v[5].buf, .h = v[6].buf, .c = v[7].buf};
    const size_t width = read_forward(&p, v, 4);
    const int fits = width &&
               empty_or_matrix(&v[4], p.steps, p.batch) && are_steps(&v[5], p.steps, p.batch, width, &p.gates_step) &&
               are_steps(&v[6], p.steps + 1, p.batch, p.units, &p.h_step) &&
               are_steps(&v[7], p.steps + 1, p.batch, p.units, &p.c_step);
    const int failed = fits && !run_forward(&p, type, &v[1], &v[2], 4);
    close_views(v, 8);
    return failed ? NULL : PyBool_FromLong(fits);
}

/* (x, weight, recurrent_weight, bias, recurrent_bias, counts, gates, part_of_h, h) */
static PyObject *gru(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[9];
    const char type = given == 9 ? open_views(arguments, "rrrrrrwww", 9, v) : 0;
    if (!type) Py_RETURN_FALSE;
    Recurrence p = {.recurrent_bias = present(&v[4]), .counts = present(&v[5]),
                    .gates = v[6].buf, .c = v[7].buf, .h = v[8].buf};
    const size_t width = read_forward(&p, v, 3);
    const int fits = width &&
               empty_or_vector(&v[4], p.units) && empty_or_matrix(&v[5], p.steps, p.batch) &&
               are_steps(&v[6], p.steps, p.batch, width, &p.gates_step) &&
               are_steps(&v[7], p.steps, p.batch, p.units, &p.c_step) &&
               are_steps(&v[8], p.steps + 1, p.batch, p.units, &p.h_step);
    const int failed = fits && !run_forward(&p, type, &v[1], &v[2], 3);
    close_views(v, 9);
    return failed ? NULL : PyBool_FromLong(fits);
}

/* Pack the transposed weight of the states and run all steps backwards. Return 0 with an error set. */
static int run_backward(Recurrence *p, char type, const Py_buffer *recurrent, size_t gates, double truncate) {
    const size_t item = type == 'f' ? sizeof(float) : sizeof(double), width = gates * p->units;
    p->truncate = truncate >= 1 && truncate < 1e15 ? (size_t)truncate : 0;
    p->tiles = tiles_of(type, p->units);
    p->recurrent = (Right){.depth = width, .columns = p->units};
    char *const packed = allocated(packed_size(&p->tiles, width, p->units), item), *room = packed;
    if (!packed) {
        PyErr_NoMemory();
        return 0;
    }
    pack_right(&p->recurrent, &p->tiles, type, recurrent->buf, 1, width, 0, &room);
    Job job = {.work = gates == 3 ? (type == 'f' ? gru_backward_float32 : gru_backward_float64)
                                  : (type == 'f' ? lstm_backward_float32 : lstm_backward_float64)};
    const int done = run_pass(p, &job, width);
    free(packed);
    return done;
}

/* Read the sizes from dh, (steps, batch, units). Return 0 if it has others. */
static int read_back(Recurrence *p, const Py_buffer *dh) {
    if (dh->ndim != 3 || !length(dh)) return 0;
    p->steps = (size_t)dh->shape[0];
    p->batch = (size_t)dh->shape[1];
    p->units = (size_t)dh->shape[2];
    p->h = dh->buf;
    return 1;
}

/* (dh, counts, gates, c, recurrent_weight, d_gates, truncate) */
static PyObject *lstm_backward(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[6];
    Job numbers;
    if (given != 7) Py_RETURN_FALSE;
    if (!read_numbers(&numbers, arguments + 6, 1)) return NULL;
    const char type = open_views(arguments, "wrrrrw", 6, v);
    if (!type) Py_RETURN_FALSE;
    Recurrence p = {.counts = present(&v[1]), .gates = v[2].buf, .c = v[3].buf, .d_gates = v[5].buf};
    const int fits = read_back(&p, v) && empty_or_matrix(&v[1], p.steps, p.batch) &&
                     is_box(&v[2], p.steps, p.batch, 4 * p.units) && is_box(&v[3], p.steps + 1, p.batch, p.units) &&
                     is_matrix(&v[4], p.units, 4 * p.units) && is_box(&v[5], p.steps, p.batch, 4 * p.units);
    const int failed = fits && !run_backward(&p, type, &v[4], 4, numbers.number[0]);
    close_views(v, 6);
    return failed ? NULL : PyBool_FromLong(fits);
}

/* (dh, counts, gates, part_of_h, h, recurrent_weight, d_gates, d_products, truncate) */
static PyObject *gru_backward(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[8];
    Job numbers;
    if (given != 9) Py_RETURN_FALSE;
    if (!read_numbers(&numbers, arguments + 8, 1)) return NULL;
    const char type = open_views(arguments, "wrrrrrww", 8, v);
    if (!type) Py_RETURN_FALSE;
    Recurrence p = {.counts = present(&v[1]), .gates = v[2].buf, .c = v[3].buf, .x = v[4].buf, .d_gates = v[6].buf,
                    .d_products = v[7].buf};
    const int fits = read_back(&p, v) && empty_or_matrix(&v[1], p.steps, p.batch) &&
                     is_box(&v[2], p.steps, p.batch, 3 * p.units) && is_box(&v[3], p.steps, p.batch, p.units) &&
                     is_box(&v[4], p.steps + 1, p.batch, p.units) && is_matrix(&v[5], p.units, 3 * p.units) &&
                     is_box(&v[6], p.steps, p.batch, 3 * p.units) && is_box(&v[7], p.steps, p.batch, 3 * p.units);
    const int failed = fits && !run_backward(&p, type, &v[5], 3, numbers.number[0]);
    close_views(v, 8);
    return failed ? NULL : PyBool_FromLong(fits);
}

/* Read the sizes from the attention, (batch, heads, steps, steps), and the rows of the heads' columns. */
static int read_heads(Heads *p, Job *job, char type, const Py_buffer *projected, const Py_buffer *attention, const Py_buffer *joined) {
    if (attention->ndim != 4 || !length(attention) || attention->shape[2] != attention->shape[3] || joined->ndim != 2) return 0;
    const size_t batch = (size_t)attention->shape[0], width = (size_t)joined->shape[1];
    p->heads = (size_t)attention->shape[1];
    p->steps = (size_t)attention->shape[2];
    p->size = width / p->heads;
    if (!p->size || width % p->heads || (size_t)joined->shape[0] != batch * p->steps) return 0;
    if (!is_matrix(projected, batch * p->steps, 3 * width)) return 0;
    p->scale = 1 / sqrt((double)p->size);
    p->wide = tiles_of(type, p->steps);
    p->narrow = tiles_of(type, p->size);
    *job = (Job){.count = batch * p->heads, .align = 1, .cost = p->steps * p->steps * (p->size / 2 + GATE), .array = {p}};
    return 1;
}

/* (projected, counts, kept, attention, joined, heads, causal) */
static PyObject *attention(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[5];
    Job job, numbers;
    if (given != 7) Py_RETURN_FALSE;
    if (!read_numbers(&numbers, arguments + 5, 2)) return NULL;
    const char type = open_views(arguments, "rrrww", 5, v);
    if (!type) Py_RETURN_FALSE;
    Heads p = {.projected = v[0].buf, .counts = present(&v[1]), .kept = present(&v[2]), .attention = v[3].buf,
               .joined = v[4].buf, .causal = numbers.number[1] != 0};
    const int fits = read_heads(&p, &job, type, &v[0], &v[3], &v[4]) && numbers.number[0] == (double)p.heads &&
                     empty_or_matrix(&v[1], (size_t)v[3].shape[0], p.steps) && (!p.kept || same_shape(v + 2, 2));
    job.work = type == 'f' ? attention_float32 : attention_float64;
    const int failed = fits && !run_released(&job);
    close_views(v, 5);
    return failed ? NULL : PyBool_FromLong(fits);
}

/* (projected, kept, attention, d_joined, d_projected, heads) */
static PyObject *attention_backward(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[5];
    Job job, numbers;
    if (given != 6) Py_RETURN_FALSE;
    if (!read_numbers(&numbers, arguments + 5, 1)) return NULL;
    const char type = open_views(arguments, "rrrrw", 5, v);
    if (!type) Py_RETURN_FALSE;
    Heads p = {.projected = v[0].buf, .kept = present(&v[1]), .attention = v[2].buf, .joined = v[3].buf,
               .d_projected = v[4].buf};
    const int fits = read_heads(&p, &job, type, &v[0], &v[2], &v[3]) && numbers.number[0] == (double)p.heads &&
                     (!p.kept || same_shape(v + 1, 2)) && is_matrix(&v[4], (size_t)v[0].shape[0], (size_t)v[0].shape[1]);
    job.work = type == 'f' ? attention_backward_float32 : attention_backward_float64;
    const int failed = fits && !run_released(&job);
    close_views(v, 5);
    return failed ? NULL : PyBool_FromLong(fits);
}

/* (a, b, out, kind): out = a @ b, a.T @ b or a @ b.T of matrices, for the kinds 0, 1, 2. */
static PyObject *matmul(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer v[3];
    Job job = {.align = 1}, numbers;
    if (given != 4) Py_RETURN_FALSE;
    if (!read_numbers(&numbers, arguments + 3, 1)) return NULL;
    const char type = open_views(arguments, "rrw", 3, v);
    if (!type) Py_RETURN_FALSE;
    const int kind = numbers.number[0] == 1 ? 1 : numbers.number[0] == 2 ? 2 : 0;
    int fits = v[0].ndim == 2 && v[1].ndim == 2 && v[2].ndim == 2 && length(&v[0]) && length(&v[1]) && length(&v[2]), failed = 0;
    if (fits) {
        const size_t a_rows = (size_t)v[0].shape[0], a_columns = (size_t)v[0].shape[1], rows = kind == 1 ? a_columns : a_rows,
                     depth = kind == 1 ? a_rows : a_columns, b_columns = (size_t)v[1].shape[1],
                     columns = kind == 2 ? (size_t)v[1].shape[0] : b_columns, item = type == 'f' ? sizeof(float) : sizeof(double);
        Product p = {.a = v[0].buf, .ra = kind == 1 ? 1 : a_columns, .ka = kind == 1 ? a_columns : 1, .out = v[2].buf,
                     .b = {.depth = depth, .columns = columns}, .tiles = tiles_of(type, columns)};
        fits = is_matrix(&v[2], rows, columns) && is_matrix(&v[1], kind == 2 ? columns : depth, kind == 2 ? depth : columns);
        const int in_place = kind == 1 && rows >= FEW_ROWS && (columns % p.tiles.lanes == 0 || columns * item >= FAR);
        char *const packed = fits && !in_place ? allocated(packed_size(&p.tiles, depth, columns), item) : NULL, *room = packed;
        job = (Job){.work = type == 'f' ? matmul_float32 : matmul_float64, .count = rows, .cost = depth * columns / MACS + 1,
                    .align = in_place ? share_of(rows, &p.tiles) : p.tiles.rows, .array = {&p}};
        if (fits && in_place) {
            p.b.numbers = v[1].buf;
            p.b.row_step = b_columns;
            failed = !run_released(&job);
        } else if (fits && packed) {
            pack_right(&p.b, &p.tiles, type, v[1].buf, kind == 2 ? 1 : b_columns, kind == 2 ? b_columns : 1, rows < FEW_ROWS, &room);
            failed = !run_released(&job);
        } else if (fits) {
            PyErr_NoMemory();
            failed = 1;
        }
        free(packed);
    }
    close_views(v, 3);
    return failed ? NULL : PyBool_FromLong(fits);
}
