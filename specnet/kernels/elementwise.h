/* Optimizers, and passes that treat each element alone. They perform numpy's operations in numpy's order. */

/* The gradient of element i, with weight decay if there is any. */
#define DECAYED(i) (decay != 0 ? value[i] * decay + gradient[i] : gradient[i])
#define ARRAY(NAME, INDEX) REAL *NAME = job->array[INDEX]
#define INPUT(NAME, INDEX) const REAL *NAME = job->array[INDEX]
#define UNITS(i) for (size_t i = first; i < stop; i++)

/* settings: decay, rate */
WORK(sgd) {
    ARRAY(value, 0); INPUT(gradient, 1); INPUT(settings, 2);
    const REAL decay = settings[0], rate = settings[1];
    INDEPENDENT
    UNITS(i) value[i] -= DECAYED(i) * rate;
}

/* settings: decay, rate, momentum, 1 for Nesterov's */
WORK(momentum) {
    ARRAY(value, 0); INPUT(gradient, 1); ARRAY(velocity, 2); INPUT(settings, 3);
    const REAL decay = settings[0], rate = settings[1], kept = settings[2], ahead = settings[3];
    INDEPENDENT
    UNITS(i) {
        const REAL g = DECAYED(i), v = velocity[i] * kept + g;
        velocity[i] = v;
        value[i] -= (ahead != 0 ? v * kept + g : v) * rate;
    }
}

/* settings: decay, rate, beta1, beta2, epsilon, keep, as Adam.prepare and AdamW.prepare compute them for the step */
WORK(adam) {
    ARRAY(value, 0); INPUT(gradient, 1); ARRAY(mean, 2); ARRAY(square, 3); INPUT(settings, 4);
    const REAL decay = settings[0], rate = settings[1], beta1 = settings[2], beta2 = settings[3],
               epsilon = settings[4], keep = settings[5];
    INDEPENDENT
    UNITS(i) {
        const REAL g = DECAYED(i), m = mean[i] * beta1 + g, v = square[i] * beta2 + g * g;
        mean[i] = m;
        square[i] = v;
        value[i] = value[i] * keep - m / (OF(root)(v) + epsilon) * rate;
    }
}

/* settings: decay, rate, alpha, 1 - alpha, epsilon, momentum */
WORK(rmsprop) {
    ARRAY(value, 0); INPUT(gradient, 1); ARRAY(square, 2); INPUT(settings, 3);
    const REAL decay = settings[0], rate = settings[1], alpha = settings[2], rest = settings[3], epsilon = settings[4];
    INDEPENDENT
    UNITS(i) {
        const REAL g = DECAYED(i), s = square[i] * alpha + g * g * rest;
        square[i] = s;
        value[i] -= g / (OF(root)(s) + epsilon) * rate;
    }
}

WORK(rmsprop_momentum) {
    ARRAY(value, 0); INPUT(gradient, 1); ARRAY(square, 2); ARRAY(velocity, 3); INPUT(settings, 4);
    const REAL decay = settings[0], rate = settings[1], alpha = settings[2], rest = settings[3],
               epsilon = settings[4], kept = settings[5];
    INDEPENDENT
    UNITS(i) {
        const REAL g = DECAYED(i), s = square[i] * alpha + g * g * rest,
                   v = velocity[i] * kept + g / (OF(root)(s) + epsilon);
        square[i] = s;
        velocity[i] = v;
        value[i] -= v * rate;
    }
}

/* settings: decay, rate, epsilon */
WORK(adagrad) {
    ARRAY(value, 0); INPUT(gradient, 1); ARRAY(square, 2); INPUT(settings, 3);
    const REAL decay = settings[0], rate = settings[1], epsilon = settings[2];
    INDEPENDENT
    UNITS(i) {
        const REAL g = DECAYED(i), s = square[i] + g * g;
        square[i] = s;
        value[i] -= g / (OF(root)(s) + epsilon) * rate;
    }
}

/* settings: keep, rate, beta1 / (1 - beta1), beta2, 1 - beta2 */
WORK(lion) {
    ARRAY(value, 0); INPUT(gradient, 1); ARRAY(mean, 2); INPUT(settings, 3);
    const REAL keep = settings[0], rate = settings[1], old = settings[2], kept = settings[3], rest = settings[4];
    INDEPENDENT
    UNITS(i) {
        const REAL g = gradient[i], m = mean[i] * old + g;
        value[i] = value[i] * keep - (m > 0 ? (REAL)1 : m < 0 ? (REAL)-1 : m * 0) * rate; /* a NaN stays */
        mean[i] = mean[i] * kept + g * rest;
    }
}

WORK(add_bias) {
    ARRAY(y, 0); INPUT(bias, 1);
    const size_t width = job->width;
    for (size_t i = first; i < stop; i++)
        INDEPENDENT
        for (size_t j = 0; j < width; j++) y[i * width + j] += bias[j];
}

WORK(relu) {
    INPUT(x, 0); ARRAY(y, 1);
    INDEPENDENT
    UNITS(i) y[i] = x[i] <= 0 ? (REAL)0 : x[i]; /* a NaN stays */
}

WORK(relu_backward) {
    INPUT(x, 0); INPUT(dy, 1); ARRAY(dx, 2);
    INDEPENDENT
    UNITS(i) dx[i] = dy[i] * (x[i] > 0 ? (REAL)1 : (REAL)0);
}

WORK(multiply) {
    INPUT(a, 0); INPUT(b, 1); ARRAY(y, 2);
    INDEPENDENT
    UNITS(i) y[i] = a[i] * b[i];
}

WORK(prelu) {
    INPUT(x, 0); ARRAY(y, 1); INPUT(slope, 2);
    const size_t width = job->width;
    for (size_t i = first * width; i < stop * width; i += width)
        INDEPENDENT
        for (size_t j = 0; j < width; j++) y[i + j] = x[i + j] > 0 ? x[i + j] : x[i + j] * slope[j];
}

WORK(prelu_backward) {
    INPUT(x, 0); INPUT(dy, 1); ARRAY(dx, 2); INPUT(slope, 3);
    const size_t width = job->width;
    for (size_t i = first * width; i < stop * width; i += width)
        INDEPENDENT
        for (size_t j = 0; j < width; j++) dx[i + j] = dy[i + j] * (x[i + j] > 0 ? (REAL)1 : slope[j]);
}

WORK(standardize) {
    INPUT(x, 0); ARRAY(y, 1); INPUT(mean, 2); INPUT(deviation, 3);
    const size_t width = job->width;
    for (size_t i = first * width; i < stop * width; i += width)
        INDEPENDENT
        for (size_t j = 0; j < width; j++) y[i + j] = (x[i + j] - mean[j]) / deviation[j];
}

/* y = (x - mean) * factor + shift, or the maximum of that and 0 if number[0] is not 0; a NaN stays a NaN. */
WORK(normalize) {
    INPUT(x, 0); ARRAY(y, 1); INPUT(mean, 2); INPUT(factor, 3); INPUT(shift, 4);
    const size_t width = job->width;
    const int rectified = job->number[0] != 0;
    for (size_t i = first * width; i < stop * width; i += width)
        INDEPENDENT
        for (size_t j = 0; j < width; j++) {
            const REAL value = (x[i + j] - mean[j]) * factor[j] + shift[j];
            y[i + j] = rectified && value <= 0 ? (REAL)0 : value;
        }
}
