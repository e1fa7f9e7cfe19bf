/* What the recurrent layers and attention know of a pass, the same for both types. */

/* The right factor of a product: packed into panels, or, with a row_step, where it lies. */
typedef struct {
    const void *numbers;
    size_t depth, columns, row_step;
} Right;

/* out = a @ b, where the rows of a are ra numbers apart and its elements ka, so that a may be transposed. */
typedef struct {
    const void *a;
    size_t ra, ka;
    Right b;
    void *out;
    Tiles tiles;
} Product;

enum {
    DEPTH = 1024,  /* products that are summed in one chain: their panel stays in the cache, and fewer digits are lost */
    FAR = 2048,    /* bytes between rows from which on they are packed */
    FEW_ROWS = 8,  /* fewer rows do not pay for packing */
    GATE = 12      /* the cost of a gate in elements of the cheapest pass */
};

/* All steps of a recurrent layer; see recurrent.h. A step of 0 says that a state overwrites the one before. */
typedef struct {
    size_t steps, batch, features, units, truncate;
    const void *x, *counts, *bias, *recurrent_bias;
    void *gates, *h, *c, *d_gates, *d_products; /* a gru has the part of h in place of c */
    size_t gates_step, h_step, c_step;
    Right weight, recurrent, candidate;
    Tiles tiles;
} Recurrence;

typedef struct {
    size_t steps, heads, size;
    const void *projected, *counts, *kept; /* kept: what dropout multiplies the attention with */
    void *attention, *joined, *d_projected;
    double scale;
    int causal;
    Tiles wide, narrow; /* for rows of steps, and of a head's columns */
} Heads;

/* The columns of the next panel of a right factor, when so many are left. */
static size_t next_panel(const Tiles *tiles, size_t left) { return left > tiles->lanes ? 2 * tiles->lanes : tiles->lanes; }

/* The numbers of a packed matrix. */
static size_t packed_size(const Tiles *tiles, size_t depth, size_t columns) {
    return depth * ((columns + tiles->lanes - 1) / tiles->lanes * tiles->lanes);
}

