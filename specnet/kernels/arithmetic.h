/* The arithmetic, included once for float and once for double: REAL is the type, NAMED(f) appends its name to f; ROOT,
   LOG and EXP are its functions. Matrices are dense, of shape (rows, width). */

/* settings: beta1, beta2, epsilon, rate, keep, as Adam.prepare and AdamW.prepare compute them for the step. */
EVERY_PROCESSOR static void NAMED(adam)(size_t count, REAL *restrict value, const REAL *restrict gradient,
                                        REAL *restrict first, REAL *restrict second, const REAL *settings) {
    const REAL beta1 = settings[0], beta2 = settings[1], epsilon = settings[2], rate = settings[3], keep = settings[4];
    for (size_t i = 0; i < count; i++) {
        const REAL g = gradient[i], m = first[i] * beta1 + g, v = second[i] * beta2 + g * g;
        first[i] = m;
        second[i] = v;
        value[i] = value[i] * keep - m / (ROOT(v) + epsilon) * rate;
    }
}

EVERY_PROCESSOR static void NAMED(add_bias)(size_t rows, size_t width, REAL *restrict y, const REAL *restrict bias) {
    for (size_t i = 0; i < rows; i++, y += width)
        for (size_t j = 0; j < width; j++) y[j] += bias[j];
}

/* y = x @ weight + bias for a single row x. It handles four rows of the weight at a time and reads each once. */
EVERY_PROCESSOR static void NAMED(affine_row)(size_t height, size_t width, const REAL *restrict x,
                                              const REAL *restrict weight, const REAL *restrict bias,
                                              REAL *restrict y) {
    for (size_t j = 0; j < width; j++) y[j] = bias[j];
    size_t i = 0;
    for (; i + 4 <= height; i += 4, x += 4, weight += 4 * width)
        for (size_t j = 0; j < width; j++)
            y[j] += (x[0] * weight[j] + x[1] * weight[width + j]) +
                    (x[2] * weight[2 * width + j] + x[3] * weight[3 * width + j]);
    for (; i < height; i++, x++, weight += width)
        for (size_t j = 0; j < width; j++) y[j] += x[0] * weight[j];
}

EVERY_PROCESSOR static void NAMED(relu)(size_t count, const REAL *x, REAL *y) {
    for (size_t i = 0; i < count; i++) y[i] = x[i] <= 0 ? (REAL)0 : x[i]; /* a NaN stays */
}

EVERY_PROCESSOR static void NAMED(relu_backward)(size_t count, const REAL *x, const REAL *dy, REAL *dx) {
    for (size_t i = 0; i < count; i++) dx[i] = dy[i] * (x[i] > 0 ? (REAL)1 : (REAL)0);
}

/* Statistics of the batch, one feature per column: centred = x - mean, y = centred * inverse * scale + shift. A sum
   over many rows loses digits, so blocks of PART rows are summed first, in an array that is overwritten later. */
EVERY_PROCESSOR static void NAMED(batch_norm)(size_t rows, size_t width, REAL epsilon, const REAL *restrict x,
                                              const REAL *restrict scale, const REAL *restrict shift,
                                              REAL *restrict centred, REAL *restrict y, REAL *restrict mean,
                                              REAL *restrict variance, REAL *restrict inverse) {
    REAL *part = inverse;
    for (size_t j = 0; j < width; j++) mean[j] = variance[j] = 0;
    for (size_t start = 0; start < rows; start += PART) {
        for (size_t j = 0; j < width; j++) part[j] = 0;
        for (size_t i = start; i < rows && i < start + PART; i++)
            for (size_t j = 0; j < width; j++) part[j] += x[i * width + j];
        for (size_t j = 0; j < width; j++) mean[j] += part[j];
    }
    for (size_t j = 0; j < width; j++) mean[j] /= (REAL)rows;
    for (size_t start = 0; start < rows; start += PART) {
        for (size_t j = 0; j < width; j++) part[j] = 0;
        for (size_t i = start; i < rows && i < start + PART; i++)
            for (size_t j = 0; j < width; j++) {
                const REAL value = x[i * width + j] - mean[j];
                centred[i * width + j] = value;
                part[j] += value * value;
            }
        for (size_t j = 0; j < width; j++) variance[j] += part[j];
    }
    for (size_t j = 0; j < width; j++) {
        variance[j] /= (REAL)rows;
        inverse[j] = 1 / ROOT(variance[j] + epsilon);
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < width; j++)
            y[i * width + j] = centred[i * width + j] * (inverse[j] * scale[j]) + shift[j];
}

/* dx = scale * inverse * (dy - mean(dy) - normed * mean(dy * normed)) with normed = centred * inverse; the two means
   are shift_grad / rows and scale_grad / rows. */
EVERY_PROCESSOR static void NAMED(batch_norm_backward)(size_t rows, size_t width, const REAL *restrict dy,
                                                       const REAL *restrict centred, const REAL *restrict scale,
                                                       const REAL *restrict inverse, REAL *restrict scale_grad,
                                                       REAL *restrict shift_grad, REAL *restrict dx) {
    const REAL share = 1 / (REAL)rows;
    REAL *part = dx, *other = dx + width; /* there are at least two rows */
    for (size_t j = 0; j < width; j++) scale_grad[j] = shift_grad[j] = 0;
    for (size_t start = 0; start < rows; start += PART) {
        for (size_t j = 0; j < width; j++) part[j] = other[j] = 0;
        for (size_t i = start; i < rows && i < start + PART; i++)
            for (size_t j = 0; j < width; j++) {
                part[j] += dy[i * width + j];
                other[j] += dy[i * width + j] * centred[i * width + j];
            }
        for (size_t j = 0; j < width; j++) {
            shift_grad[j] += part[j];
            scale_grad[j] += other[j];
        }
    }
    for (size_t j = 0; j < width; j++) scale_grad[j] *= inverse[j];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < width; j++) {
            const REAL moved = centred[i * width + j] * (scale_grad[j] * inverse[j] * share) + shift_grad[j] * share;
            dx[i * width + j] = (dy[i * width + j] - moved) * (scale[j] * inverse[j]);
        }
}

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

/* The gradient is (softmax(x) - q) / rows, q = smoothing / width plus 1 - smoothing at the row's class. The classes are
   already checked; own_class checks again, so that a thread that changes them meanwhile causes no out-of-bounds
   access. */
EVERY_PROCESSOR static double NAMED(cross_entropy)(size_t rows, size_t width, const REAL *restrict x,
                                                   const int64_t *restrict classes, REAL *restrict gradient,
                                                   double smoothing) {
    const REAL share = (REAL)(1.0 / (double)rows), even = (REAL)(smoothing / (double)width) * share,
               sure = (REAL)(1 - smoothing) * share;
    double expected = 0, logs = 0;
    for (size_t i = 0; i < rows; i++) {
        REAL *z = gradient + i * width;
        const REAL most = NAMED(greatest)(x + i * width, width);
        for (size_t j = 0; j < width; j++) z[j] = x[i * width + j] - most;
        if (smoothing < 1) expected += (double)z[own_class(classes, i, width)] * (1 - smoothing);
        if (smoothing > 0) {
            double sum = 0;
            for (size_t j = 0; j < width; j++) sum += (double)z[j];
            expected += sum * smoothing / (double)width;
        }
    }
    for (size_t i = 0; i < rows * width; i++) gradient[i] = EXP(gradient[i]);
    for (size_t i = 0; i < rows; i++) {
        REAL *e = gradient + i * width;
        const REAL sum = NAMED(sum)(e, width), scale = share / sum;
        logs += (double)LOG(sum);
        for (size_t j = 0; j < width; j++) e[j] = e[j] * scale - even;
        e[own_class(classes, i, width)] -= sure;
    }
    return (logs - expected) / (double)rows;
}
