/* Exponential functions that compilers can vectorize, unlike libm's. NAME is the type, TERMS the length of its series. */

/* 1/0!, 1/1!, ... */
static const double TAYLOR[] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
                                1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};

/* Q(z) = exp(-z^2 / 2) times this polynomial in (z - 6) / (z + 6), the upper tail of the normal distribution; the
   coefficients, lowest power first, are those of layers/gelu.py. */
static const double TAIL[] = {
    0.06477931432444685,     -0.12319673345701898,   0.10583149345047198,     -0.08190603979919718,
    0.05682315263471257,     -0.03505453982553658,   0.018987678978880696,    -0.008846435930969657,
    0.0034179280016286857,   -0.001013452158045095,  0.0001803729978649788,   1.2374221466450424e-05,
    -2.0509596180711515e-05, 5.485555608499639e-06,  4.772796853291437e-07,   -7.161602680063508e-07,
    1.133070631137882e-07,   6.139921169790772e-08,  -2.4337307803221746e-08, -4.004960273337347e-09,
    3.207193787509873e-09,   1.590367274110336e-10,  -2.484594697191755e-10,  6.724061008385494e-13};
enum { TAIL_TERMS = sizeof TAIL / sizeof *TAIL };

/* exp and expm1 (exp(x) - 1, precise near 0) of x <= 0, as 2^k times the Taylor series of the rest r. Adding
   1.5 * 2^DIGITS rounds to an integer k, in the number's low bits; HIGH + LOW is log(2); e^x is 0 below LEAST. */
#define EXPONENTIAL(REAL, NAME, BITS, DIGITS, BIAS, TERMS, LOG_TERMS, LEAST, HIGH, LOW)                                \
    static inline REAL reduced_of_##NAME(REAL x, REAL *scale) {                                                           \
        const REAL shifter = (REAL)1.5 * (REAL)((BITS)1 << DIGITS), bounded = x < LEAST ? LEAST : x;                   \
        union { REAL real; BITS bits; } power = {bounded * (REAL)1.4426950408889634 + shifter};                        \
        const REAL k = power.real - shifter;                                                                           \
        power.bits = (power.bits << DIGITS) + ((BITS)BIAS << DIGITS);                                                  \
        *scale = power.real;                                                                                           \
        return (bounded - k * HIGH) - k * LOW;                                                                         \
    }                                                                                                                  \
    static inline REAL exp_of_##NAME(REAL x) {                                                                            \
        REAL scale, y = (REAL)TAYLOR[TERMS];                                                                           \
        const REAL r = reduced_of_##NAME(x, &scale);                                                                      \
        UNROLLED for (int i = TERMS - 1; i >= 0; i--) y = y * r + (REAL)TAYLOR[i];                                     \
        return x < LEAST ? 0 : y * scale;                                                                              \
    }                                                                                                                  \
    static inline REAL expm1_of_##NAME(REAL x) {                                                                          \
        REAL scale, y = (REAL)TAYLOR[TERMS];                                                                           \
        const REAL r = reduced_of_##NAME(x, &scale);                                                                      \
        UNROLLED for (int i = TERMS - 1; i >= 1; i--) y = y * r + (REAL)TAYLOR[i];                                     \
        return scale * (y * r) + (scale - 1);                                                                          \
    }                                                                                                                  \
    /* log(1 + e) for e in [0, 1], as 2 artanh(s) = 2 (s + s^3 / 3 + ...) with s = e / (2 + e) */                     \
    static inline REAL log1p_of_##NAME(REAL e) {                                                                          \
        const REAL s = e / (2 + e), z = s * s;                                                                         \
        REAL y = (REAL)1 / (2 * LOG_TERMS + 1);                                                                        \
        UNROLLED for (int i = LOG_TERMS - 1; i >= 0; i--) y = y * z + (REAL)1 / (REAL)(2 * i + 1);                     \
        return 2 * s * y;                                                                                              \
    }                                                                                                                  \
    static inline REAL tanh_of_##NAME(REAL x) {                                                                           \
        const REAL e = expm1_of_##NAME(x > 0 ? -2 * x : 2 * x), y = e / (2 + e);                                          \
        return x > 0 ? -y : y;                                                                                         \
    }                                                                                                                  \
    static inline REAL sigmoid_of_##NAME(REAL x) {                                                                        \
        const REAL e = exp_of_##NAME(x < 0 ? x : -x), y = 1 / (1 + e);                                                    \
        return x < 0 ? e * y : y;                                                                                      \
    }                                                                                                                  \
    static inline REAL softplus_of_##NAME(REAL x) {                                                                       \
        return log1p_of_##NAME(exp_of_##NAME(x < 0 ? x : -x)) + (x < 0 ? 0 : x);                                             \
    }                                                                                                                  \
    /* the distribution function of the standard normal; beyond 40 its tail is 0 */                                   \
    static inline REAL normal_of_##NAME(REAL x) {                                                                         \
        const REAL far = x < 0 ? -x : x, z = far > 40 ? 40 : far, t = (z - 6) / (z + 6);                               \
        REAL y = (REAL)TAIL[TAIL_TERMS - 1];                                                                           \
        UNROLLED for (int i = TAIL_TERMS - 2; i >= 0; i--) y = y * t + (REAL)TAIL[i];                                  \
        y *= exp_of_##NAME(z * z * (REAL)-0.5);                                                                           \
        return x > 0 ? 1 - y : y;                                                                                      \
    }

static inline float root_of_float32(float x) { return sqrtf(x); }
static inline double root_of_float64(double x) { return sqrt(x); }
static inline float log_of_float32(float x) { return logf(x); }
static inline double log_of_float64(double x) { return log(x); }

#define UNROLLED _Pragma("GCC unroll 32")

EXPONENTIAL(float, float32, uint32_t, 23, 127, 7, 8, -87.0f, 0.693145752f, 1.42860677e-6f)
EXPONENTIAL(double, float64, uint64_t, 52, 1023, 12, 17, -708.0, 0.693147180369123816490, 1.90821492927058770002e-10)
