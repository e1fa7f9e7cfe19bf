/* Functions on contiguous float32 or float64 arrays. They need one or two passes over memory; numpy needs several.
   They are compiled without fused multiply-add (-ffp-contract=off), so that the same operations return numpy's bits.
   Each returns False, or None, for arrays that it refuses, and then changes nothing. See __init__.py, build.py. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Compile one version of a function per processor type; the loader picks one when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_PROCESSOR
#endif

/* 1/0!, 1/1!, ... */
static const double TAYLOR[] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
                                1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};

/* e^x for x <= 0, as 2^k times the Taylor series of the rest; unlike libm's, compilers can vectorize it. Adding
   1.5 * 2^DIGITS rounds to an integer k, in the number's low bits; HIGH + LOW is log(2); e^x is 0 below LEAST. */
#define EXPONENTIAL(REAL, NAME, BITS, DIGITS, BIAS, TERMS, LEAST, HIGH, LOW)                                                  \
    static inline REAL exp_##NAME(REAL x) {                                                                           \
        const REAL shifter = (REAL)1.5 * (REAL)((BITS)1 << DIGITS), bounded = x < LEAST ? LEAST : x;                  \
        union { REAL real; BITS bits; } power = {bounded * (REAL)1.4426950408889634 + shifter};                       \
        const REAL k = power.real - shifter, r = (bounded - k * HIGH) - k * LOW;                                      \
        REAL y = (REAL)TAYLOR[TERMS];                                                                                 \
        for (int i = TERMS - 1; i >= 0; i--) y = y * r + (REAL)TAYLOR[i];                                             \
        power.bits = (power.bits << DIGITS) + ((BITS)BIAS << DIGITS);                                                 \
        return x < LEAST ? 0 : y * power.real;                                                                        \
    }

EXPONENTIAL(float, float32, uint32_t, 23, 127, 7, -87.0f, 0.693145752f, 1.42860677e-6f)
EXPONENTIAL(double, float64, uint64_t, 52, 1023, 12, -708.0, 0.693147180369123816490, 1.90821492927058770002e-10)

enum { WIDE = 64, PART = 128 };

/* A row's class, or 0 if it is out of range. Another thread may change the class at any time; because of volatile it is
   read once, and not once for the check and once more for the result. */
static inline size_t own_class(const int64_t *classes, size_t row, size_t width) {
    const uint64_t given = (uint64_t) * (const volatile int64_t *)(classes + row);
    return given < width ? (size_t)given : 0;
}

#define REAL float
#define NAMED(function) function##_float32
#define ROOT sqrtf
#define LOG logf
#define EXP exp_float32
#include "arithmetic.h"
#undef REAL
#undef NAMED
#undef ROOT
#undef LOG
#undef EXP
#define REAL double
#define NAMED(function) function##_float64
#define ROOT sqrt
#define LOG log
#define EXP exp_float64
#include "arithmetic.h"

/* ---- functions called from Python ---- */

enum {
    MOST = 8,
    RELEASED = 16384,   /* from this number of elements on, other threads may run meanwhile */
    FEW_WEIGHTS = 32768 /* with more weights, BLAS is faster */
};

static void close_views(Py_buffer *views, int count) {
    while (count--) PyBuffer_Release(&views[count]);
}

/* The modes of arrays: r is read, w is written, m is written and may be exactly the memory of another array, i is read
   and int64. A compiler may assume that no array overlaps one of mode w: the arithmetic declares them restrict. */
static int is_written(char mode) { return mode == 'w' || mode == 'm'; }

/* Addresses are compared as integers: C does not define < for pointers into different arrays, nor NULL + 0, and the
   buffer of an empty array may be NULL. */
static int overlap(const Py_buffer *one, const Py_buffer *other) {
    const uintptr_t a = (uintptr_t)one->buf, b = (uintptr_t)other->buf;
    return a < b + (size_t)other->len && b < a + (size_t)one->len;
}

static int apart(const Py_buffer *views, const char *modes, int count) {
    for (int i = 0; i < count; i++) {
        if (!is_written(modes[i])) continue;
        for (int j = 0; j < count; j++) {
            if (i == j || !overlap(&views[i], &views[j])) continue;
            if (modes[i] == 'w' || views[i].buf != views[j].buf || views[i].len != views[j].len) return 0;
        }
    }
    return 1;
}

/* Return 'f', 'd' or 'i' for an array whose items are native and aligned; 0 for every other one. */
static char type_of(const Py_buffer *view) {
    const char *format = view->format ? view->format : "";
    const char type = format[0] == 'l' || format[0] == 'q' ? 'i' : format[0];
    const size_t size = type == 'f' ? sizeof(float) : sizeof(double); /* an int64 is as large as a double */
    if ((type != 'f' && type != 'd' && type != 'i') || format[1]) return 0;
    return (size_t)view->itemsize == size && !((uintptr_t)view->buf & (size - 1)) ? type : 0;
}

/* Open arrays that are contiguous, aligned, apart, writable if they are written, and all of the same one of the two
   types (int64 in mode i). Return 'f' or 'd', or 0 with no array open and no error set. */
static char open_views(PyObject *const *arrays, Py_ssize_t given, const char *modes, Py_buffer *views) {
    const int count = (int)strlen(modes);
    char type = 0;
    if (given != count) return 0;
    for (int i = 0; i < count; i++) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (is_written(modes[i]) ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(arrays[i], &views[i], flags) < 0) {
            PyErr_Clear();
            close_views(views, i);
            return 0;
        }
        const char its = type_of(&views[i]);
        const int fits = modes[i] == 'i' ? its == 'i' : (its == 'f' || its == 'd') && (!type || type == its);
        if (!fits) {
            close_views(views, i + 1);
            return 0;
        }
        if (modes[i] != 'i') type = its;
    }
    if (!apart(views, modes, count)) {
        close_views(views, count);
        return 0;
    }
    return type;
}

static size_t length(const Py_buffer *view) { return (size_t)(view->len / view->itemsize); }

static int same_shape(const Py_buffer *views, int count) {
    for (int i = 1; i < count; i++) {
        if (views[i].ndim != views[0].ndim) return 0;
        for (int axis = 0; axis < views[0].ndim; axis++) /* not memcmp: without axes, shape is NULL */
            if (views[i].shape[axis] != views[0].shape[axis]) return 0;
    }
    return 1;
}

/* Comparing the axes, and not their product, also keeps the product from overflowing. */
static int is_matrix(const Py_buffer *view, size_t rows, size_t width) {
    return view->ndim == 2 && (size_t)view->shape[0] == rows && (size_t)view->shape[1] == width;
}

static int same_length(const Py_buffer *views, int count) {
    for (int i = 1; i < count; i++)
        if (length(&views[i]) != length(&views[0])) return 0;
    return 1;
}

/* Call an arithmetic function in the version for the type; release the GIL if there are many elements. */
#define RUN(SIZE, CALL, ...)                                                                                          \
    do {                                                                                                              \
        PyThreadState *state = (SIZE) >= RELEASED ? PyEval_SaveThread() : NULL;                                       \
        if (type == 'f') CALL##_float32(__VA_ARGS__); else CALL##_float64(__VA_ARGS__);                               \
        if (state) PyEval_RestoreThread(state);                                                                       \
    } while (0)

static PyObject *adam(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    const char type = open_views(arrays, given, "wrwwr", v);
    if (!type) Py_RETURN_FALSE;
    const size_t count = length(&v[0]);
    const int fits = same_shape(v, 4) && length(&v[4]) == 5;
    if (fits)
        RUN(count, adam, count, v[0].buf, v[1].buf, v[2].buf, v[3].buf, v[4].buf);
    close_views(v, 5);
    return PyBool_FromLong(fits);
}

static PyObject *add_bias(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    const char type = open_views(arrays, given, "wr", v);
    if (!type) Py_RETURN_FALSE;
    const size_t count = length(&v[0]), width = length(&v[1]);
    const int fits = width && v[0].ndim && (size_t)v[0].shape[v[0].ndim - 1] == width;
    if (fits)
        RUN(count, add_bias, count / width, width, v[0].buf, v[1].buf);
    close_views(v, 2);
    return PyBool_FromLong(fits);
}

static PyObject *affine_row(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    const char type = open_views(arrays, given, "rrrw", v);
    if (!type) Py_RETURN_FALSE;
    const size_t height = length(&v[0]), width = length(&v[2]);
    const int fits = height && width && is_matrix(&v[1], height, width) && length(&v[1]) <= FEW_WEIGHTS &&
                     length(&v[3]) == width;
    if (fits)
        RUN(length(&v[1]), affine_row, height, width, v[0].buf, v[1].buf, v[2].buf, v[3].buf);
    close_views(v, 4);
    return PyBool_FromLong(fits);
}

static PyObject *relu(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    const char type = open_views(arrays, given, "rm", v);
    if (!type) Py_RETURN_FALSE;
    const size_t count = length(&v[0]);
    const int fits = same_shape(v, 2);
    if (fits) RUN(count, relu, count, v[0].buf, v[1].buf);
    close_views(v, 2);
    return PyBool_FromLong(fits);
}

static PyObject *relu_backward(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    const char type = open_views(arrays, given, "rrm", v);
    if (!type) Py_RETURN_FALSE;
    const size_t count = length(&v[0]);
    const int fits = same_shape(v, 3);
    if (fits)
        RUN(count, relu_backward, count, v[0].buf, v[1].buf, v[2].buf);
    close_views(v, 3);
    return PyBool_FromLong(fits);
}

static PyObject *batch_norm(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    if (given != 9) Py_RETURN_FALSE;
    const double epsilon = PyFloat_AsDouble(arrays[8]);
    if (epsilon == -1 && PyErr_Occurred()) return NULL;
    const char type = open_views(arrays, given - 1, "rrrwwwww", v);
    if (!type) Py_RETURN_FALSE;
    const size_t count = length(&v[0]), width = length(&v[1]), rows = width ? count / width : 0;
    const int fits = rows && is_matrix(&v[0], rows, width) && is_matrix(&v[3], rows, width) &&
                     is_matrix(&v[4], rows, width) && same_length(v + 1, 2) && same_length(v + 5, 3) &&
                     length(&v[5]) == width;
    if (fits)
        RUN(count, batch_norm, rows, width, epsilon, v[0].buf, v[1].buf, v[2].buf, v[3].buf, v[4].buf, v[5].buf,
                               v[6].buf, v[7].buf);
    close_views(v, 8);
    return PyBool_FromLong(fits);
}

static PyObject *batch_norm_backward(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    const char type = open_views(arrays, given, "rrrrwww", v);
    if (!type) Py_RETURN_FALSE;
    const size_t count = length(&v[0]), width = length(&v[2]), rows = width ? count / width : 0;
    const int fits = rows > 1 && is_matrix(&v[0], rows, width) && is_matrix(&v[1], rows, width) &&
                     is_matrix(&v[6], rows, width) && same_length(v + 2, 4);
    if (fits)
        RUN(count, batch_norm_backward, rows, width, v[0].buf, v[1].buf, v[2].buf, v[3].buf, v[4].buf, v[5].buf,
                                        v[6].buf);
    close_views(v, 7);
    return PyBool_FromLong(fits);
}

static PyObject *cross_entropy(PyObject *self, PyObject *const *arrays, Py_ssize_t given) {
    Py_buffer v[MOST];
    if (given != 4) Py_RETURN_NONE;
    const double smoothing = PyFloat_AsDouble(arrays[3]);
    if (smoothing == -1 && PyErr_Occurred()) return NULL;
    const char type = open_views(arrays, given - 1, "riw", v);
    if (!type) Py_RETURN_NONE;
    const size_t count = length(&v[0]), rows = length(&v[1]);
    const int64_t *classes = v[1].buf;
    const size_t width = rows ? count / rows : 0;
    int fits = width && is_matrix(&v[0], rows, width) && is_matrix(&v[2], rows, width);
    for (size_t i = 0; i < rows && fits; i++) fits = (uint64_t)classes[i] < width;
    double loss = 0;
    if (fits)
        RUN(count, loss = cross_entropy, rows, width, v[0].buf, classes, v[2].buf, smoothing);
    close_views(v, 3);
    if (!fits) Py_RETURN_NONE;
    return PyFloat_FromDouble(loss);
}

#define METHOD(NAME) {#NAME, (PyCFunction)(void (*)(void))NAME, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {METHOD(adam), METHOD(add_bias), METHOD(affine_row), METHOD(relu), METHOD(relu_backward),
                                METHOD(batch_norm), METHOD(batch_norm_backward), METHOD(cross_entropy),
                                {NULL, NULL, 0, NULL}};
static int set_version(PyObject *module) { return PyModule_AddIntConstant(module, "VERSION", 2); }
static PyModuleDef_Slot slots[] = {{Py_mod_exec, set_version}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
