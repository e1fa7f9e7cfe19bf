/* Functions on contiguous float32 or float64 arrays. They need one or two passes over memory; numpy needs several, and
   uses one core. They are compiled without fused multiply-add (-ffp-contract=off), so that the same operations return
   numpy's bits. Each returns False, or None, for arrays that it refuses, and then changes nothing.

   A kernel is a WORK in the arithmetic (elementwise.h and others), a FIT in shapes.h, and a row of KERNELS at the end.
   See __init__.py, build.py. */

#define _GNU_SOURCE /* for dl_iterate_phdr and CPU_COUNT */
#define PY_SSIZE_T_CLEAN
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED /* free-threaded Python has no stable binary interface */
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Compile one version of a function per processor type; the loader picks one when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_PROCESSOR
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(ANY_TILES) /* with ANY_TILES: as on other processors */
#define X86
#define ANY_ROWS 3 /* for processors without AVX2 */
#else
#define ANY_ROWS 8
#endif

/* Multiply-adds in one instruction, for sums of which no bits are promised between numpy and the kernels. */
#ifdef __clang__
#define FUSED
#define FUSED_BODY _Pragma("clang fp contract(fast)")
#else
#define FUSED __attribute__((optimize("O2", "fp-contract=fast"))) /* O3 would add nothing but a third of the time to compile */
#define FUSED_BODY
#endif

/* The arrays that a loop writes do not overlap those that it reads, or are exactly the same. */
#define INDEPENDENT _Pragma("omp simd")

enum {
    WIDE = 64,         /* from this width on, a row is reduced with SIMD */
    PART = 128,        /* rows that are summed before their sum is added to the others */
    CHUNK = 256,       /* columns whose sums are computed at a time */
    BAND = 64,         /* rows of a weight whose products with one row are summed at a time */
    RELEASED = 16384   /* from this cost on, other Python threads may run meanwhile */
};

/* A row's class, or 0 if it is out of range. Another thread may change the class at any time; because of volatile it is
   read once, and not once for the check and once more for the result. */
static inline size_t own_class(const int64_t *classes, size_t row, size_t width) {
    const uint64_t given = (uint64_t) * (const volatile int64_t *)(classes + row);
    return given < width ? (size_t)given : 0;
}

#include "functions.h"
#include "random.h"
#include "threads.h"
#include "blas.h"
#include "views.h"
#include "geometry.h"
#include "passes.h"
#include "shapes.h"

#define REAL float
#define BITS int32_t
#define NAMED(function) function##_float32
#define OF(function) function##_of_float32
#include "arithmetic.h"
#undef REAL
#undef BITS
#undef NAMED
#undef OF
#define REAL double
#define BITS int64_t
#define NAMED(function) function##_float64
#define OF(function) function##_of_float64
#include "arithmetic.h"

/* ---- functions called from Python ---- */

typedef void (*Work)(const Job *, size_t, size_t);

typedef struct {
    const char *modes; /* one per argument; numbers are the last */
    int (*fit)(Job *, const Py_buffer *);
    Work float32, float64;
} Kernel;

/* Run a job, and let other Python threads run meanwhile if it is large. Return 0 with an error set without memory. */
static int run_released(Job *job) {
    _Atomic int no_memory = 0;
    job->no_memory = &no_memory;
    PyThreadState *state = job->count * job->cost >= RELEASED ? PyEval_SaveThread() : NULL;
    run(job);
    if (state) PyEval_RestoreThread(state);
    if (atomic_load(&no_memory)) PyErr_NoMemory();
    return !atomic_load(&no_memory);
}

/* Read the numbers after the arrays. Return 0 with an error set if one is no number. */
static int read_numbers(Job *job, PyObject *const *arguments, int count) {
    for (int i = 0; i < count; i++) {
        job->number[i] = PyFloat_AsDouble(arguments[i]);
        if (job->number[i] == -1 && PyErr_Occurred()) return 0;
    }
    return 1;
}

static PyObject *call(const Kernel *kernel, PyObject *const *arguments, Py_ssize_t given) {
    Py_buffer views[MOST];
    Job job = {.align = 1};
    const int all = (int)strlen(kernel->modes), arrays = (int)strcspn(kernel->modes, "n");
    if (given != all) Py_RETURN_FALSE;
    if (!read_numbers(&job, arguments + arrays, all - arrays)) return NULL;
    const char type = open_views(arguments, kernel->modes, arrays, views);
    if (!type) Py_RETURN_FALSE;
    for (int i = 0; i < arrays; i++) job.array[i] = views[i].buf;
    const int fits = kernel->fit(&job, views);
    job.work = type == 'f' ? kernel->float32 : kernel->float64;
    const int failed = fits && !run_released(&job);
    close_views(views, arrays);
    return failed ? NULL : PyBool_FromLong(fits);
}

#define KERNELS(K)                                                                                                     \
    K(sgd, "wrr") K(momentum, "wrwr") K(adam, "wrwwr") K(rmsprop, "wrwr") K(rmsprop_momentum, "wrwwr")                 \
    K(adagrad, "wrwr") K(lion, "wrwr") K(add_bias, "wr") K(relu, "rm") K(relu_backward, "rrm") K(multiply, "rrm")      \
    K(prelu, "rwr") K(prelu_backward, "rrwr") K(standardize, "rwrr") K(normalize, "rmrrrn") K(sum_rows, "rw")          \
    K(sum_product, "rrw") K(sum_negative, "rrw") K(batch_norm, "rrrwmwwwnnn") K(batch_norm_backward, "rrrrwwm")        \
    K(batch_norm_relu_backward, "rrrrwwmr") K(layer_norm, "rrrwwmn") K(rms_norm, "rrwwmn")                             \
    K(row_norm_backward, "rrrrmn") K(softmax, "rw") K(max_pool, "rwi") K(max_pool_backward, "rrwi")                    \
    K(average_pool, "rwi") K(average_pool_backward, "rwi")

#define DEFINE(NAME, MODES)                                                                                            \
    static PyObject *NAME(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {                              \
        static const Kernel kernel = {MODES, fit_##NAME, NAME##_float32, NAME##_float64};                              \
        return call(&kernel, arguments, given);                                                                        \
    }
KERNELS(DEFINE)

#include "calls.h"
#include "convolution_calls.h"
#include "sequence_calls.h"

#define METHOD(NAME) {#NAME, (PyCFunction)(void (*)(void))NAME, METH_FASTCALL, NULL}
#define KERNEL_METHOD(NAME, MODES) METHOD(NAME),
static PyMethodDef methods[] = {KERNELS(KERNEL_METHOD) METHOD(activation), METHOD(activation_slope), METHOD(affine_row),
                                METHOD(dense_row), METHOD(cross_entropy), METHOD(dropout), METHOD(gather),
                                METHOD(convolve), METHOD(convolve_back), METHOD(convolve_weight), METHOD(lstm),
                                METHOD(lstm_backward), METHOD(gru), METHOD(gru_backward), METHOD(attention),
                                METHOD(attention_backward), METHOD(matmul),
                                {"threads", threads, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};

static int prepare(PyObject *module) {
    static atomic_flag prepared = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&prepared)) pthread_atfork(NULL, NULL, forget_threads);
    return PyModule_AddIntConstant(module, "VERSION", 5);
}

/* Slots that later versions of Python know: each interpreter may have its own lock, or none (a free-threaded Python). */
static PyModuleDef_Slot slots[4] = {{Py_mod_exec, prepare}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) {
    enum { MULTIPLE_INTERPRETERS = 3, GIL = 4 };
    int count = 1;
    if (Py_Version >= 0x030C0000) slots[count++] = (PyModuleDef_Slot){MULTIPLE_INTERPRETERS, (void *)2};
    if (Py_Version >= 0x030D0000) slots[count++] = (PyModuleDef_Slot){GIL, (void *)1};
    return PyModuleDef_Init(&definition);
}
