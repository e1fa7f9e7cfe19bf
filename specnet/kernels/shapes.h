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
