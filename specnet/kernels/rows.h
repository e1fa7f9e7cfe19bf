/* A single row through weights, and softmax. */

/* Sum and maximum of a row. A wide row is reduced with SIMD, whose set-up does not pay for a narrow row. */
static inline REAL NAMED(sum)(const REAL *row, size_t width) {
    REAL sum = 0;
    if (width < WIDE) {
        for (size_t j = 0; j < width; j++) sum += row[j];
    } else {
#pragma omp simd reduction(+ : sum)
        for (size_t j = 0; j < width; j++) sum += row[j];
    }
    return sum;
}

static inline REAL NAMED(greatest)(const REAL *row, size_t width) {
    REAL most = row[0];
    if (width < WIDE) {
        for (size_t j = 1; j < width; j++) most = row[j] > most ? row[j] : most;
    } else {
#pragma omp simd reduction(max : most)
        for (size_t j = 1; j < width; j++) most = row[j] > most ? row[j] : most;
    }
    return most;
}

/* Rows of the weight for one row x, in blocks of BAND rows: each block's sum goes into a row of `parts`, and the sums
   are added in their order. A block handles eight rows of the weight at a time and reads each once. */
WORK(affine_parts) {
    INPUT(input, 0); INPUT(weights, 1); ARRAY(parts, 2);
    const size_t width = job->width;
    for (size_t block = first; block < stop; block++) {
        const size_t end = (block + 1) * BAND < job->rows ? (block + 1) * BAND : job->rows;
        REAL *restrict y = parts + block * width;
        size_t i = block * BAND;
        for (size_t j = 0; j < width; j++) y[j] = 0;
        for (; i + 8 <= end; i += 8) {
            const REAL *restrict x = input + i, *restrict weight = weights + i * width;
            INDEPENDENT
            for (size_t j = 0; j < width; j++)
                y[j] += ((x[0] * weight[j] + x[1] * weight[width + j]) +
                         (x[2] * weight[2 * width + j] + x[3] * weight[3 * width + j])) +
                        ((x[4] * weight[4 * width + j] + x[5] * weight[5 * width + j]) +
                         (x[6] * weight[6 * width + j] + x[7] * weight[7 * width + j]));
        }
        for (; i < end; i++)
            INDEPENDENT
            for (size_t j = 0; j < width; j++) y[j] += input[i] * weights[i * width + j];
    }
}

/* y = bias + the sums of all blocks, then max(y, 0) if `rectified`. */
EVERY_PROCESSOR static void NAMED(add_parts)(const Job *job, const REAL *restrict bias, REAL *restrict y, int rectified) {
    const REAL *parts = job->array[2];
    const size_t width = job->width;
    for (size_t j = 0; j < width; j++) y[j] = bias[j];
    for (size_t block = 0; block < job->count; block++, parts += width)
        for (size_t j = 0; j < width; j++) y[j] += parts[j];
    if (rectified)
        for (size_t j = 0; j < width; j++) y[j] = y[j] <= 0 ? (REAL)0 : y[j];
}

/* The gradient is (softmax(x) - q) / rows, q = smoothing / width plus 1 - smoothing at the row's class. The classes are
   already checked; own_class checks again, so that a thread that changes them meanwhile causes no out-of-bounds
   access. */
WORK(cross_entropy) {
    INPUT(x, 0); ARRAY(gradient, 2);
    const int64_t *classes = job->array[1];
    double *losses = job->array[3];
    const size_t rows = job->rows, width = job->width;
    const double smoothing = job->number[0];
    const REAL share = (REAL)(1.0 / (double)rows), even = (REAL)(smoothing / (double)width) * share,
               sure = (REAL)(1 - smoothing) * share;
    for (size_t i = first; i < stop; i++) {
        REAL *z = gradient + i * width;
        const REAL most = NAMED(greatest)(x + i * width, width);
        double expected = 0;
        INDEPENDENT
        for (size_t j = 0; j < width; j++) z[j] = x[i * width + j] - most;
        if (smoothing < 1) expected += (double)z[own_class(classes, i, width)] * (1 - smoothing);
        if (smoothing > 0) {
            double sum = 0;
            for (size_t j = 0; j < width; j++) sum += (double)z[j];
            expected += sum * smoothing / (double)width;
        }
        losses[i] = expected;
    }
    INDEPENDENT
    for (size_t i = first * width; i < stop * width; i++) gradient[i] = OF(exp)(gradient[i]);
    for (size_t i = first; i < stop; i++) {
        REAL *e = gradient + i * width;
        const REAL sum = NAMED(sum)(e, width), scale = share / sum;
        losses[i] = (double)OF(log)(sum) - losses[i];
        INDEPENDENT
        for (size_t j = 0; j < width; j++) e[j] = e[j] * scale - even;
        e[own_class(classes, i, width)] -= sure;
    }
}

WORK(softmax) {
    INPUT(x, 0); ARRAY(y, 1);
    const size_t width = job->width;
    for (size_t i = first; i < stop; i++) {
        const REAL most = NAMED(greatest)(x + i * width, width);
        INDEPENDENT
        for (size_t j = 0; j < width; j++) y[i * width + j] = x[i * width + j] - most;
    }
    INDEPENDENT
    for (size_t i = first * width; i < stop * width; i++) y[i] = OF(exp)(y[i]);
    for (size_t i = first; i < stop; i++) {
        REAL *row = y + i * width;
        const REAL sum = NAMED(sum)(row, width);
        INDEPENDENT
        for (size_t j = 0; j < width; j++) row[j] /= sum;
    }
}
