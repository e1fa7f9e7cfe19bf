/* Sums over the rows, one for each column, and normalizations. A sum over many rows loses digits, so blocks of PART rows
   are summed first; the columns, which are divided among threads, do not depend on each other. */

#define COLUMNS(j) for (size_t j = 0; j < count; j++)

/* sums[j] = the sum over the rows of TERM, which names the elements a and b of a row by j. */
#define SUM_ROWS(NAME, OUT, TERM)                                                                                      \
    WORK(NAME) {                                                                                                       \
        INPUT(x, 0); INPUT(other, 1); ARRAY(sums, OUT);                                                                \
        for (size_t start = first; start < stop; start += CHUNK) {                                                     \
            const size_t count = stop - start < CHUNK ? stop - start : CHUNK;                                          \
            REAL part[CHUNK], *total = sums + start;                                                                   \
            COLUMNS(j) total[j] = 0;                                                                                   \
            for (size_t block = 0; block < job->rows; block += PART) {                                                 \
                COLUMNS(j) part[j] = 0;                                                                                \
                for (size_t i = block; i < job->rows && i < block + PART; i++) {                                       \
                    const REAL *a = x + i * job->width + start, *b = other + (OUT - 1) * i * job->width + start;       \
                    (void)b;                                                                                           \
                    INDEPENDENT                                                                                        \
                    COLUMNS(j) part[j] += TERM;                                                                        \
                }                                                                                                      \
                COLUMNS(j) total[j] += part[j];                                                                        \
            }                                                                                                          \
        }                                                                                                              \
    }

SUM_ROWS(sum_rows, 1, a[j])
SUM_ROWS(sum_product, 2, a[j] * b[j])
SUM_ROWS(sum_negative, 2, (a[j] > 0 ? (REAL)0 : a[j]) * b[j])

/* Statistics of the batch: centred = x - mean, y = centred * inverse * scale + shift, or y = max(that, 0) if number[1]
   is not 0. The running statistics move towards those of the batch by number[2], the variance's without bias. CHUNK
   columns at a time stay in the cache during the passes over them. */
WORK(batch_norm) {
    const size_t rows = job->rows, width = job->width;
    const REAL epsilon = (REAL)job->number[0], momentum = (REAL)job->number[2],
               unbiased = (REAL)((double)rows / (double)(rows - 1));
    const int rectified = job->number[1] != 0;
    for (size_t start = first; start < stop; start += CHUNK) {
        const size_t count = stop - start < CHUNK ? stop - start : CHUNK;
        INPUT(x, 0); INPUT(scale, 1); INPUT(shift, 2); ARRAY(centred, 3); ARRAY(y, 4);
        ARRAY(running_mean, 5); ARRAY(running_variance, 6); ARRAY(inverses, 7);
        REAL part[CHUNK], mean[CHUNK] = {0}, variance[CHUNK] = {0}, factor[CHUNK];
        for (size_t block = 0; block < rows; block += PART) {
            COLUMNS(j) part[j] = 0;
            for (size_t i = block * width + start; i < rows * width && i < (block + PART) * width; i += width)
                INDEPENDENT
                COLUMNS(j) part[j] += x[i + j];
            COLUMNS(j) mean[j] += part[j];
        }
        COLUMNS(j) mean[j] /= (REAL)rows;
        for (size_t block = 0; block < rows; block += PART) {
            COLUMNS(j) part[j] = 0;
            for (size_t i = block * width + start; i < rows * width && i < (block + PART) * width; i += width)
                INDEPENDENT
                COLUMNS(j) {
                    const REAL value = x[i + j] - mean[j];
                    centred[i + j] = value;
                    part[j] += value * value;
                }
            COLUMNS(j) variance[j] += part[j];
        }
        COLUMNS(j) {
            const REAL spread = variance[j] / (REAL)rows, inverse = 1 / OF(root)(spread + epsilon);
            running_mean[start + j] += (mean[j] - running_mean[start + j]) * momentum;
            running_variance[start + j] += (spread * unbiased - running_variance[start + j]) * momentum;
            inverses[start + j] = inverse;
            factor[j] = inverse * scale[start + j];
        }
        for (size_t i = start; i < rows * width; i += width)
            INDEPENDENT
            COLUMNS(j) {
                const REAL value = centred[i + j] * factor[j] + shift[start + j];
                y[i + j] = rectified && value <= 0 ? (REAL)0 : value;
            }
    }
}

/* dx = scale * inverse * (dy - mean(dy) - normed * mean(dy * normed)) with normed = centred * inverse; the two means
   are shift_grad / rows and scale_grad / rows. With `masked`, dy counts only where the ReLU's output y is positive. */
static inline __attribute__((always_inline)) void NAMED(normed_backward)(const Job *job, size_t first, size_t stop,
                                                                         int masked) {
    const size_t rows = job->rows, width = job->width;
    const REAL share = 1 / (REAL)rows;
    for (size_t start = first; start < stop; start += CHUNK) {
        const size_t count = stop - start < CHUNK ? stop - start : CHUNK;
        INPUT(dy, 0); INPUT(centred, 1); INPUT(scale, 2); INPUT(inverse, 3); INPUT(y, 7);
        ARRAY(scale_grads, 4); ARRAY(shift_grads, 5); ARRAY(dx, 6);
        REAL part[CHUNK], other[CHUNK], scale_grad[CHUNK] = {0}, shift_grad[CHUNK] = {0}, factor[CHUNK];
        for (size_t block = 0; block < rows; block += PART) {
            COLUMNS(j) part[j] = other[j] = 0;
            for (size_t i = block * width + start; i < rows * width && i < (block + PART) * width; i += width)
                INDEPENDENT
                COLUMNS(j) {
                    const REAL d = masked ? dy[i + j] * (y[i + j] > 0 ? (REAL)1 : (REAL)0) : dy[i + j];
                    part[j] += d;
                    other[j] += d * centred[i + j];
                }
            COLUMNS(j) {
                shift_grad[j] += part[j];
                scale_grad[j] += other[j];
            }
        }
        COLUMNS(j) {
            const REAL own = inverse[start + j], grad = scale_grad[j] * own;
            scale_grads[start + j] = grad;
            shift_grads[start + j] = shift_grad[j];
            scale_grad[j] = grad * own * share;
            shift_grad[j] *= share;
            factor[j] = scale[start + j] * own;
        }
        for (size_t i = start; i < rows * width; i += width)
            INDEPENDENT
            COLUMNS(j) {
                const REAL d = masked ? dy[i + j] * (y[i + j] > 0 ? (REAL)1 : (REAL)0) : dy[i + j];
                dx[i + j] = (d - (centred[i + j] * scale_grad[j] + shift_grad[j])) * factor[j];
            }
    }
}

WORK(batch_norm_backward) { NAMED(normed_backward)(job, first, stop, 0); }
WORK(batch_norm_relu_backward) { NAMED(normed_backward)(job, first, stop, 1); }

/* Row by row: normalized = (x - mean) * inverse with inverse = 1 / sqrt(variance + epsilon), y = normalized * scale +
   shift; without a shift it is the root mean square, and the mean is not subtracted. */
static inline __attribute__((always_inline)) void NAMED(row_norm)(const Job *job, size_t first, size_t stop,
                                                                  const REAL *shift, REAL *normalized, REAL *inverses,
                                                                  REAL *y) {
    INPUT(x, 0); INPUT(scale, 1);
    const size_t width = job->width;
    const REAL epsilon = (REAL)job->number[0], share = 1 / (REAL)width;
    for (size_t i = first; i < stop; i++) {
        const REAL *row = x + i * width;
        REAL *own = normalized + i * width, *out = y + i * width, mean = 0, squares = 0;
        if (shift) mean = NAMED(sum)(row, width) * share;
        if (width < WIDE) {
            for (size_t j = 0; j < width; j++) squares += (row[j] - mean) * (row[j] - mean);
        } else {
#pragma omp simd reduction(+ : squares)
            for (size_t j = 0; j < width; j++) squares += (row[j] - mean) * (row[j] - mean);
        }
        const REAL inverse = inverses[i] = 1 / OF(root)(squares * share + epsilon);
        INDEPENDENT
        for (size_t j = 0; j < width; j++) {
            own[j] = (row[j] - mean) * inverse;
            out[j] = shift ? own[j] * scale[j] + shift[j] : own[j] * scale[j];
        }
    }
}

WORK(layer_norm) {
    NAMED(row_norm)(job, first, stop, job->array[2], job->array[3], job->array[4], job->array[5]);
}

WORK(rms_norm) { NAMED(row_norm)(job, first, stop, NULL, job->array[2], job->array[3], job->array[4]); }

/* dx = inverse * (d - normalized * mean(d * normalized) - mean(d)) with d = dy * scale; number[0] is 0 for rms_norm,
   which has no mean(d). */
WORK(row_norm_backward) {
    INPUT(dy, 0); INPUT(normalized, 1); INPUT(scale, 2); INPUT(inverse, 3); ARRAY(dx, 4);
    const size_t width = job->width;
    const REAL share = 1 / (REAL)width, centred = job->number[0] != 0 ? share : 0;
    for (size_t i = first; i < stop; i++) {
        const REAL *up = dy + i * width, *normed = normalized + i * width;
        REAL *out = dx + i * width, sum = 0, products = 0;
#pragma omp simd reduction(+ : sum, products)
        for (size_t j = 0; j < width; j++) {
            sum += up[j] * scale[j];
            products += up[j] * scale[j] * normed[j];
        }
        const REAL mean = sum * centred, slope = products * share;
        INDEPENDENT
        for (size_t j = 0; j < width; j++) out[j] = (up[j] * scale[j] - normed[j] * slope - mean) * inverse[i];
    }
}
