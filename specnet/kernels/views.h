/* The arrays that Python passes: opened as buffers, checked, and closed again. */

enum { MOST = 10 };

static void close_views(Py_buffer *views, int count) {
    while (count--) PyBuffer_Release(&views[count]);
}

/* The modes of arguments: r is read, w is written, m is written and may be exactly the memory of another array, i is
   read and int64; n is a number. A compiler may assume that no array overlaps one of mode w. */
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
static char open_views(PyObject *const *arrays, const char *modes, int count, Py_buffer *views) {
    char type = 0;
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
