/* How each kernel's arrays must fit together, and how its work may be cut: a function for each sets the job's sizes, and
   returns 0 for arrays that it refuses. The cost of a unit is in elements of the cheapest pass (ReLU). */

static int by_element(Job *job, const Py_buffer *view, size_t cost) {
    job->count = length(view);
    job->cost = cost;
    job->align = LINE / sizeof(float);
    return 1;
}

/* The last axis is the width, all others are the rows. */
static int set_rows(Job *job, const Py_buffer *view, size_t width) {
    if (!width || !view->ndim || (size_t)view->shape[view->ndim - 1] != width) return 0;
    job->width = width;
    job->rows = length(view) / width;
    return 1;
}

static int by_row(Job *job, size_t cost) {
    job->count = job->rows;
    job->cost = job->width * cost;
    job->align = 1;
    return 1;
}

/* Columns of a matrix, `written` or one like it. */
static int by_column(Job *job, const Py_buffer *written, size_t cost) {
    const size_t item = (size_t)written->itemsize, start = (uintptr_t)written->buf % LINE;
    job->count = job->width;
    job->cost = job->rows * cost;
    job->align = LINE / item;
    job->lead = start % item ? 0 : (LINE - start) / item % job->align;
    return 1;
}

#define FIT(NAME) static int fit_##NAME(Job *job, const Py_buffer *v)

FIT(sgd) { return same_shape(v, 2) && length(&v[2]) == 2 && by_element(job, v, 2); }
FIT(momentum) { return same_shape(v, 3) && length(&v[3]) == 4 && by_element(job, v, 3); }
FIT(adam) { return same_shape(v, 4) && length(&v[4]) == 6 && by_element(job, v, 8); }
FIT(rmsprop) { return same_shape(v, 3) && length(&v[3]) == 6 && by_element(job, v, 6); }
FIT(rmsprop_momentum) { return same_shape(v, 4) && length(&v[4]) == 6 && by_element(job, v, 7); }
FIT(adagrad) { return same_shape(v, 3) && length(&v[3]) == 3 && by_element(job, v, 6); }
FIT(lion) { return same_shape(v, 3) && length(&v[3]) == 5 && by_element(job, v, 4); }

FIT(add_bias) { return set_rows(job, &v[0], length(&v[1])) && by_row(job, 1); }
FIT(relu) { return same_shape(v, 2) && by_element(job, v, 1); }
FIT(relu_backward) { return same_shape(v, 3) && by_element(job, v, 1); }
FIT(multiply) { return same_shape(v, 3) && by_element(job, v, 1); }
FIT(activation) { return same_shape(v, 2) && by_element(job, v, 16); }
FIT(activation_slope) { return same_shape(v, 3) && by_element(job, v, 20); }
FIT(prelu) { return same_shape(v, 2) && set_rows(job, &v[0], length(&v[2])) && by_row(job, 1); }
FIT(prelu_backward) { return same_shape(v, 3) && set_rows(job, &v[0], length(&v[3])) && by_row(job, 1); }
FIT(standardize) { return same_shape(v, 2) && same_length(v + 2, 2) && set_rows(job, v, length(&v[2])) && by_row(job, 2); }
FIT(normalize) { return same_shape(v, 2) && same_length(v + 2, 3) && set_rows(job, v, length(&v[2])) && by_row(job, 2); }

FIT(sum_rows) { return v[0].ndim == 2 && set_rows(job, v, length(&v[1])) && by_column(job, &v[1], 1); }
FIT(sum_product) { return v[0].ndim == 2 && same_shape(v, 2) && set_rows(job, v, length(&v[2])) && by_column(job, &v[2], 2); }
FIT(sum_negative) { return fit_sum_product(job, v); }

FIT(batch_norm) {
    return v[0].ndim == 2 && set_rows(job, v, length(&v[1])) && job->rows > 1 && is_matrix(&v[3], job->rows, job->width) &&
           is_matrix(&v[4], job->rows, job->width) && same_length(v + 1, 2) && same_length(v + 5, 3) &&
           length(&v[5]) == job->width && by_column(job, &v[3], 4);
}

FIT(batch_norm_backward) {
    return v[0].ndim == 2 && set_rows(job, v, length(&v[2])) && job->rows > 1 && same_shape(v, 2) &&
           is_matrix(&v[6], job->rows, job->width) && same_length(v + 2, 4) && by_column(job, &v[6], 5);
}

FIT(batch_norm_relu_backward) {
    return fit_batch_norm_backward(job, v) && is_matrix(&v[7], job->rows, job->width);
}

FIT(layer_norm) {
    return v[0].ndim == 2 && set_rows(job, v, length(&v[1])) && length(&v[2]) == job->width &&
           is_matrix(&v[3], job->rows, job->width) && is_matrix(&v[4], job->rows, 1) &&
           is_matrix(&v[5], job->rows, job->width) && by_row(job, 5);
}

FIT(rms_norm) {
    return v[0].ndim == 2 && set_rows(job, v, length(&v[1])) && is_matrix(&v[2], job->rows, job->width) &&
           is_matrix(&v[3], job->rows, 1) && is_matrix(&v[4], job->rows, job->width) && by_row(job, 4);
}

FIT(row_norm_backward) {
    return v[0].ndim == 2 && same_shape(v, 2) && set_rows(job, v, length(&v[2])) && is_matrix(&v[3], job->rows, 1) &&
           is_matrix(&v[4], job->rows, job->width) && by_row(job, 5);
}

FIT(softmax) { return v[0].ndim && same_shape(v, 2) && set_rows(job, v, (size_t)v[0].shape[v[0].ndim - 1]) && by_row(job, 10); }

/* Its state has four numbers: the two words of the key, the first row and the step. */
FIT(dropout) {
    return v[0].ndim && v[0].shape[0] && same_shape(v, 3) && length(&v[3]) == 4 &&
           set_rows(job, v, length(v) / (size_t)v[0].shape[0]) && by_row(job, 12);
}

/* Every window of a pool must have a position within the input: x and y are images, and the settings are for them. */
static int fit_pool(Job *job, const Py_buffer *x, const Py_buffer *y, const Py_buffer *settings) {
    int64_t *numbers = job->setting, last;
    if (x->ndim != 4 || y->ndim != 4 || x->shape[0] != y->shape[0] || x->shape[3] != y->shape[3]) return 0;
    if (length(settings) != 7 || !length(x) || !length(y)) return 0;
    memcpy(numbers, settings->buf, sizeof job->setting);
    for (int i = 0; i < 7; i++)
        if (numbers[i] < (i < 4) || numbers[i] > INT32_MAX) return 0;
    for (int axis = 0; axis < 2; axis++) {
        if (__builtin_mul_overflow((int64_t)y->shape[1 + axis] - 1, numbers[2 + axis], &last)) return 0;
        if (numbers[4 + axis] >= numbers[axis] || last - numbers[4 + axis] >= x->shape[1 + axis]) return 0;
    }
    job->array[7] = x->shape;
    job->array[8] = y->shape;
    job->align = 1;
    return 1;
}

static int by_image(Job *job, const Py_buffer *x, size_t cost) {
    job->count = (size_t)x->shape[0];
    job->cost = length(x) / job->count * cost;
    return 1;
}

static int by_line(Job *job, const Py_buffer *x, const Py_buffer *y, size_t cost) {
    job->count = (size_t)(y->shape[0] * y->shape[1]);
    job->cost = length(x) / job->count * cost + 1;
    return 1;
}

FIT(max_pool) { return fit_pool(job, &v[0], &v[1], &v[2]) && by_line(job, &v[0], &v[1], 2); }
FIT(max_pool_backward) {
    return length(&v[0]) == length(&v[2]) && fit_pool(job, &v[0], &v[1], &v[3]) && by_image(job, v, 4);
}
FIT(average_pool) { return fit_max_pool(job, v); }
FIT(average_pool_backward) { return fit_pool(job, &v[1], &v[0], &v[2]) && by_image(job, &v[1], 2); }
