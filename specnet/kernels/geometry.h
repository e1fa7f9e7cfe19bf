/* The geometry of a convolution, the same for all types: which rows and columns of its input an output needs.

   Row p of the output takes row (p * stride + i * dilation - padding) / spread of the input for row i of the kernel,
   where that is a whole number within the input. Forward, the spread is 1; a convolution that goes back has the stride 1,
   its spread is the stride of the other one, and its kernel is reversed. */

typedef struct {
    size_t a, b, length; /* where the numbers of both factors begin, and how many lie behind each other */
} Segment;

typedef struct { /* see tiles.h */
    const void *a, *b, *bias;
    void *out;
    Segment *segments;
    size_t count, ra, ka, kb, ro, columns;
    int rectified, added;
} Tile;

typedef struct {
    void (*tile)(const Tile *, int rows, int vectors, int depthwise);
    size_t lanes; /* numbers in a vector */
    size_t rows;  /* of a tile, at most */
} Tiles;

typedef struct {
    void *data;
    size_t height, width, channels;
    size_t left, row; /* zeros left of a copied row, in pixels; numbers in a row with the zeros on both sides */
    int copied;       /* windows reach over the sides of the rows */
    int overrun;      /* vectors reach over the end of the array, into numbers that are not used */
} Plane;

typedef struct {
    size_t images, channels, filters, groups, kernel[2]; /* the weight is (kernel, channels / groups, filters) */
    ptrdiff_t stride[2], spread[2], dilation[2], padding[2], inverse[2];
    size_t step[2]; /* taps of the kernel from one that meets an input to the next; see first_tap */
    Plane in, out;
    Tiles tiles;
    int back, depthwise, rectified;
    const void *weight;
    void *packed, *bias; /* the weight and the bias in panels; see pack in convolution.h */
    void *gradient, *sums;
    size_t panels, parts; /* of the gradient's filters, and of the images that are summed separately */
    size_t block, room;   /* rows of outputs at a time, and bytes of the input's rows that they need */
} Conv;

enum {
    BLOCK = 128 * 1024,     /* bytes of input rows at a time: they stay in the second cache with a panel of weights */
    MACS = 6,               /* multiply-adds that cost as much as an element of the cheapest pass */
    FARTHEST = 1 << 30,     /* the most positions that a stride, a dilation or padding may span, and bytes of a row */
    MOST_PARTS = 16,        /* most parts of the images whose gradients are summed separately */
    PARTS = 2 * 1024 * 1024 /* most numbers in all of these sums */
};

/* The columns of the next panel, one or two vectors, when so many are left. */
static size_t panel_width(const Conv *c, size_t left) { return left > c->tiles.lanes ? 2 * c->tiles.lanes : c->tiles.lanes; }

/* Groups are panels of their own; the channels of a depthwise convolution are the columns of vectors. */
static size_t group_count(const Conv *c) { return c->depthwise ? 1 : c->groups; }
static size_t group_inputs(const Conv *c) { return c->depthwise ? 1 : c->in.channels / c->groups; }
static size_t group_outputs(const Conv *c) { return c->out.channels / group_count(c); }

static size_t clamped(ptrdiff_t value, size_t most) { return value < 0 ? 0 : (size_t)value > most ? most : (size_t)value; }

/* The source of a row or a column (axis 0 or 1) of the output for one tap of the kernel that meets it. */
static ptrdiff_t source_of(const Conv *c, int axis, size_t position, size_t tap) {
    const ptrdiff_t spread = (ptrdiff_t)position * c->stride[axis] + (ptrdiff_t)tap * c->dilation[axis] - c->padding[axis];
    return c->spread[axis] == 1 ? spread : spread / c->spread[axis];
}

/* The first tap that meets a row or column of the input, or the kernel's size if none does; the others follow every
   c->step[axis] taps. It solves position * stride + tap * dilation = padding modulo the spread. */
static size_t first_tap(const Conv *c, int axis, size_t position) {
    const ptrdiff_t step = (ptrdiff_t)c->step[axis], common = c->spread[axis] / step;
    if (c->spread[axis] == 1) return 0;
    const ptrdiff_t distance = c->padding[axis] - (ptrdiff_t)position * c->stride[axis];
    if (distance % common) return c->kernel[axis];
    const ptrdiff_t rest = distance / common % step;
    return (size_t)((rest < 0 ? rest + step : rest) * c->inverse[axis] % step);
}

/* Set step and inverse: dilation * inverse = the greatest common divisor of dilation and spread, modulo the spread. */
static void solve_taps(Conv *c, int axis) {
    ptrdiff_t a = c->dilation[axis] % c->spread[axis], b = c->spread[axis], x = 1, y = 0;
    while (a) { /* Euclid's algorithm, with x * dilation = a and y * dilation = b modulo the spread */
        const ptrdiff_t quotient = b / a, rest = b % a, next = y - quotient * x;
        b = a;
        a = rest;
        y = x;
        x = next;
    }
    c->step[axis] = (size_t)(c->spread[axis] / b);
    const ptrdiff_t inverse = y % (ptrdiff_t)c->step[axis];
    c->inverse[axis] = inverse < 0 ? inverse + (ptrdiff_t)c->step[axis] : inverse;
}

/* The rows [from, to) of the input that rows [start, stop) of the output need. */
static void source_rows(const Conv *c, size_t start, size_t stop, size_t *from, size_t *to) {
    const ptrdiff_t spread = c->spread[0], low = (ptrdiff_t)start * c->stride[0] - c->padding[0],
                    high = (ptrdiff_t)(stop - 1) * c->stride[0] + (ptrdiff_t)(c->kernel[0] - 1) * c->dilation[0] - c->padding[0];
    *from = clamped(low / spread, c->in.height);
    *to = clamped(high < 0 ? 0 : high / spread + 1, c->in.height);
    if (*to < *from) *to = *from;
}

/* Write the segments of a line: what the outputs (row, phase) take from the rows since `from`, and from the weights.
   `input` is the first channel of the group, or of the panel of a depthwise convolution. */
static size_t segments_of(const Conv *c, size_t row, size_t phase, size_t from, size_t input, size_t width, Segment *to) {
    const size_t inputs = group_inputs(c), joined = c->groups == 1 ? inputs : 0, first = first_tap(c, 1, phase);
    size_t count = 0;
    for (size_t i = first_tap(c, 0, row); i < c->kernel[0]; i += c->step[0]) {
        const ptrdiff_t at = source_of(c, 0, row, i);
        if (at < 0 || at >= (ptrdiff_t)c->in.height) continue;
        for (size_t j = first; j < c->kernel[1]; j += c->step[1]) {
            const size_t column = (size_t)(source_of(c, 1, phase, j) + (ptrdiff_t)c->in.left),
                         a = ((size_t)at - from) * c->in.row + column * c->in.channels + input,
                         b = (i * c->kernel[1] + j) * inputs * width;
            Segment *last = count ? to + count - 1 : NULL;
            if (last && joined && a == last->a + last->length && b == last->b + last->length * width) last->length += joined;
            else to[count++] = (Segment){a, b, inputs};
        }
    }
    return count;
}

/* Memory that vectors are read from, NULL if there is none or if the number of bytes is too large for one. */
static void *allocated(size_t count, size_t item) {
    size_t bytes;
    void *room = NULL;
    if (__builtin_mul_overflow(count, item, &bytes) || bytes > PTRDIFF_MAX - LINE) return NULL;
    return posix_memalign(&room, LINE, bytes + LINE) ? NULL : room;
}

/* Set what follows from the other fields: the zeros beside the rows, the blocks of rows. Return 0 if rows would be too
   large for a number. */
static int finish_geometry(Conv *c, size_t item) {
    ptrdiff_t least = 0, most = (ptrdiff_t)c->in.width - 1;
    for (int axis = 0; axis < 2; axis++) solve_taps(c, axis);
    for (size_t phase = 0; phase < (size_t)c->spread[1] && phase < c->out.width; phase++) {
        const size_t first = first_tap(c, 1, phase);
        if (first >= c->kernel[1]) continue;
        const size_t last = first + (c->kernel[1] - 1 - first) / c->step[1] * c->step[1];
        const ptrdiff_t low = source_of(c, 1, phase, first), high = source_of(c, 1, phase, last) +
                        ((ptrdiff_t)(c->out.width - phase) - 1) / c->spread[1] * c->stride[1];
        least = low < least ? low : least;
        most = high > most ? high : most;
    }
    size_t bytes;
    if (__builtin_mul_overflow((size_t)(most + 1 - least), c->in.channels * item, &bytes) || bytes > FARTHEST) return 0;
    c->in.left = (size_t)-least;
    c->in.row = bytes / item;
    c->in.copied = c->in.row > c->in.width * c->in.channels;
    c->in.overrun = c->depthwise && c->channels % c->tiles.lanes;
    const size_t window = ((c->kernel[0] - 1) * (size_t)c->dilation[0]) / (size_t)c->spread[0] + 3,
                 fit = BLOCK / bytes,
                 block = (fit > window ? fit - window : 0) * (size_t)c->spread[0] / (size_t)c->stride[0] + 1;
    c->block = block < c->out.height ? block : c->out.height;
    const size_t rows = (c->block - 1) * (size_t)c->stride[0] / (size_t)c->spread[0] + window,
                 numbers = (rows < c->in.height ? rows : c->in.height) * c->in.row + 2 * c->tiles.lanes;
    c->room = c->in.copied || c->in.overrun ? (numbers * item / LINE + 1) * LINE : 0; /* segments lie behind it */
    return 1;
}

/* A pool of images: the sizes of the input and the output, and `setting`: the window's height and width, the strides,
   the padding before the input, and whether averages count the padding. */
typedef struct {
    size_t height, width, channels, image, out_height, out_width;
    const int64_t *setting;
} Pool;

typedef struct {
    size_t from, to;
} Span;

enum {
    POOLED = 64,              /* channels at a time */
    MOST_POSITIONS = 1 << 24  /* of a window: their numbers are exact in float */
};

static Pool pool_of(const Job *job) {
    const Py_ssize_t *in = job->array[7], *out = job->array[8];
    return (Pool){(size_t)in[1], (size_t)in[2], (size_t)in[3], (size_t)(in[1] * in[2] * in[3]),
                  (size_t)out[1], (size_t)out[2], job->setting};
}

/* The part of a window that lies within the input. */
static Span window_at(const Pool *p, int axis, size_t position) {
    const int64_t size = (int64_t)(axis ? p->width : p->height),
                  from = (int64_t)position * p->setting[2 + axis] - p->setting[4 + axis], to = from + p->setting[axis];
    return (Span){from < 0 ? 0 : (size_t)from, to > size ? (size_t)size : (size_t)to};
}

static size_t counted(const Pool *p, Span rows, Span columns) {
    return p->setting[6] ? (size_t)(p->setting[0] * p->setting[1]) : (rows.to - rows.from) * (columns.to - columns.from);
}
