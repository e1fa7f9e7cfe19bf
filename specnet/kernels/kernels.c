/* What numpy needs several passes over memory for, in one. Same operations in the same order, so the same bits
   (-ffp-contract=off: no fused multiply-add). Built where a C compiler is found; see build.py and __init__.py. */

#include <math.h>
#include <stddef.h>

/* One version for each kind of processor, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_PROCESSOR
#endif

int specnet_kernels_version(void) { return 1; }

/* settings: beta1, beta2, epsilon, rate, keep; all as Adam.prepare and AdamW.prepare have them for the step. */
#define ADAM(NAME, REAL, ROOT)                                                                                        \
    EVERY_PROCESSOR void NAME(size_t count, REAL *restrict value, const REAL *restrict gradient,                      \
                              REAL *restrict first, REAL *restrict second, const REAL *restrict settings) {           \
        const REAL beta1 = settings[0], beta2 = settings[1], epsilon = settings[2], rate = settings[3],               \
                   keep = settings[4];                                                                                \
        for (size_t i = 0; i < count; i++) {                                                                          \
            const REAL g = gradient[i], m = first[i] * beta1 + g, v = second[i] * beta2 + g * g;                      \
            first[i] = m;                                                                                             \
            second[i] = v;                                                                                            \
            value[i] = value[i] * keep - m / (ROOT(v) + epsilon) * rate;                                              \
        }                                                                                                             \
    }

ADAM(specnet_adam_float32, float, sqrtf)
ADAM(specnet_adam_float64, double, sqrt)
