/* Activations: y = f(x), and the slope f'(x) with it. p and q are the layer's constants. An activation is one line here
   and one in ACTIVATIONS, whose order kernels/__init__.py repeats. */

#define ACTIVATION(NAME, VALUE, SLOPE)                                                                                 \
    WORK(NAME) {                                                                                                       \
        INPUT(in, 0); ARRAY(out, 1);                                                                                   \
        const REAL p = (REAL)job->number[1], q = (REAL)job->number[2];                                                 \
        (void)p, (void)q;                                                                                              \
        INDEPENDENT                                                                                                    \
        UNITS(i) {                                                                                                     \
            const REAL x = in[i];                                                                                      \
            out[i] = VALUE;                                                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    WORK(NAME##_with_slope) {                                                                                               \
        INPUT(in, 0); ARRAY(out, 1); ARRAY(slope, 2);                                                                  \
        const REAL p = (REAL)job->number[1], q = (REAL)job->number[2];                                                 \
        (void)p, (void)q;                                                                                              \
        INDEPENDENT                                                                                                    \
        UNITS(i) {                                                                                                     \
            const REAL x = in[i], y = VALUE;                                                                           \
            out[i] = y;                                                                                                \
            slope[i] = SLOPE;                                                                                          \
        }                                                                                                              \
    }

static inline REAL NAMED(gelu_slope)(REAL x, REAL cdf) {
    const REAL z = x < -40 ? -40 : x > 40 ? 40 : x;
    return cdf + x * (OF(exp)(z * z * (REAL)-0.5) * (REAL)0.39894228040143267794);
}

/* tanh(sqrt(2 / pi) * (x + cubic)), cubic = 0.044715 x^3 */
static inline REAL NAMED(gelu_bend)(REAL x) {
    return OF(tanh)((REAL)0.79788456080286535588 * (x + (REAL)0.044715 * x * x * x));
}

static inline REAL NAMED(gelu_tanh_slope)(REAL x, REAL t) {
    const REAL inner = (REAL)0.79788456080286535588 * (1 + (REAL)(3 * 0.044715) * x * x);
    return (REAL)0.5 * (1 + t) + (REAL)0.5 * x * (1 - t * t) * inner;
}

static inline REAL NAMED(mish_slope)(REAL x, REAL t) { return t + x * (1 - t * t) * OF(sigmoid)(x); }

ACTIVATION(leaky_relu, x > 0 ? x : x * p, x > 0 ? (REAL)1 : p)
ACTIVATION(elu, x > 0 ? p * x : q * OF(expm1)(x > 0 ? 0 : x), x > 0 ? p : y + q)
ACTIVATION(sigmoid, OF(sigmoid)(x), y * (1 - y))
ACTIVATION(tanh, OF(tanh)(x), 1 - y * y)
ACTIVATION(softplus, OF(softplus)(p * x) / p, OF(sigmoid)(p * x))
ACTIVATION(silu, x * OF(sigmoid)(x), OF(sigmoid)(x) + y * (1 - OF(sigmoid)(x)))
ACTIVATION(mish, x * OF(tanh)(OF(softplus)(x)), NAMED(mish_slope)(x, OF(tanh)(OF(softplus)(x))))
ACTIVATION(gelu, x * OF(normal)(x), NAMED(gelu_slope)(x, OF(normal)(x)))
ACTIVATION(gelu_tanh, (REAL)0.5 * x * (1 + NAMED(gelu_bend)(x)), NAMED(gelu_tanh_slope)(x, NAMED(gelu_bend)(x)))
