/* Recurrent layers: all steps of a pass, for some of the sequences of a batch. A step is a product of the input and one
   of the state, and then one loop over the units. The columns of the gates are i, f, g, o (lstm) and r, z, n (gru). */

#define EACH_UNIT INDEPENDENT for (size_t j = 0; j < units; j++)
#define COUNTS(T, ROW) (!counts || counts[(T) * p->batch + (ROW)] != 0)

EVERY_PROCESSOR static void NAMED(lstm_gates)(REAL *restrict gates, const REAL *c, REAL *to_c, REAL *restrict h, size_t units) {
    REAL *restrict i = gates, *restrict f = gates + units, *restrict g = gates + 2 * units, *restrict o = gates + 3 * units;
    for (size_t j = 0; j < 2 * units; j++) i[j] = OF(sigmoid)(i[j]);
    for (size_t j = 0; j < units; j++) g[j] = OF(tanh)(g[j]);
    for (size_t j = 0; j < units; j++) o[j] = OF(sigmoid)(o[j]);
    EACH_UNIT to_c[j] = f[j] * c[j] + i[j] * g[j];
    EACH_UNIT h[j] = o[j] * OF(tanh)(to_c[j]);
}

/* dc is the gradient of the cell that comes from the later steps, and becomes that of the cell before this one. */
EVERY_PROCESSOR static void NAMED(lstm_slopes)(const REAL *restrict gates, const REAL *restrict before, const REAL *restrict c,
                                               const REAL *restrict dh, REAL *restrict dc, REAL *restrict d_gates, size_t units) {
    const REAL *i = gates, *f = gates + units, *g = gates + 2 * units, *o = gates + 3 * units;
    REAL *di = d_gates, *df = d_gates + units, *dg = d_gates + 2 * units, *d_o = d_gates + 3 * units;
    EACH_UNIT d_o[j] = OF(tanh)(c[j]);
    EACH_UNIT {
        const REAL t = d_o[j], d = dc[j] + dh[j] * o[j] * (1 - t * t);
        d_o[j] = dh[j] * t * o[j] * (1 - o[j]);
        di[j] = d * g[j] * i[j] * (1 - i[j]);
        df[j] = d * before[j] * f[j] * (1 - f[j]);
        dg[j] = d * i[j] * (1 - g[j] * g[j]);
        dc[j] = d * f[j];
    }
}

EVERY_PROCESSOR static void NAMED(gru_gates)(REAL *restrict gates, const REAL *restrict part, const REAL *h, REAL *to, size_t units) {
    REAL *restrict r = gates, *restrict z = gates + units, *restrict n = gates + 2 * units;
    for (size_t j = 0; j < 2 * units; j++) r[j] = OF(sigmoid)(r[j]);
    for (size_t j = 0; j < units; j++) n[j] = OF(tanh)(n[j] + r[j] * part[j]);
    EACH_UNIT to[j] = n[j] + z[j] * (h[j] - n[j]);
}

EVERY_PROCESSOR static void NAMED(gru_slopes)(const REAL *restrict gates, const REAL *restrict part, const REAL *restrict h,
                                              const REAL *restrict dh, REAL *restrict d_gates, REAL *restrict d_products,
                                              size_t units) {
    const REAL *r = gates, *z = gates + units, *n = gates + 2 * units;
    EACH_UNIT {
        const REAL dn = dh[j] * (1 - z[j]) * (1 - n[j] * n[j]), dz = dh[j] * (h[j] - n[j]) * z[j] * (1 - z[j]),
                   dr = dn * part[j] * r[j] * (1 - r[j]);
        d_gates[j] = d_products[j] = dr;
        d_gates[units + j] = d_products[units + j] = dz;
        d_gates[2 * units + j] = dn;
        d_products[2 * units + j] = dn * r[j];
    }
}

EVERY_PROCESSOR static void NAMED(add_to)(REAL *restrict to, const REAL *restrict from, size_t units) { EACH_UNIT to[j] += from[j]; }

EVERY_PROCESSOR static void NAMED(add_product)(REAL *restrict to, const REAL *restrict a, const REAL *restrict b, size_t units) {
    EACH_UNIT to[j] += a[j] * b[j];
}

/* gates = x @ weight + bias + h @ recurrent_weight, for step t. */
static void NAMED(sum_inputs)(const Recurrence *p, size_t t, size_t first, size_t stop, const REAL *h, REAL *gates, size_t width) {
    const REAL *x = (const REAL *)p->x + (t * p->batch + first) * p->features;
    REAL *const to = gates + first * width;
    NAMED(multiply_matrices)(&p->tiles, x, p->features, 1, stop - first, &p->weight, p->bias, to, width, 0);
    NAMED(multiply_matrices)(&p->tiles, h + first * p->units, p->units, 1, stop - first, &p->recurrent, NULL, to, width, 1);
}

/* The units are the sequences of the batch. */
static void NAMED(lstm)(const Job *job, size_t first, size_t stop) {
    const Recurrence *p = job->array[0];
    const size_t units = p->units, width = 4 * units;
    const REAL *counts = p->counts;
    for (size_t t = 0; t < p->steps; t++) {
        REAL *gates = (REAL *)p->gates + t * p->gates_step, *h = (REAL *)p->h + t * p->h_step, *to_h = h + p->h_step,
             *c = (REAL *)p->c + t * p->c_step, *to_c = c + p->c_step;
        NAMED(sum_inputs)(p, t, first, stop, h, gates, width);
        for (size_t row = first; row < stop; row++) {
            if (COUNTS(t, row)) {
                NAMED(lstm_gates)(gates + row * width, c + row * units, to_c + row * units, to_h + row * units, units);
            } else {
                if (p->h_step) memcpy(to_h + row * units, h + row * units, units * sizeof(REAL));
                if (p->c_step) memcpy(to_c + row * units, c + row * units, units * sizeof(REAL));
            }
        }
    }
}

static void NAMED(gru)(const Job *job, size_t first, size_t stop) {
    const Recurrence *p = job->array[0];
    const size_t units = p->units, width = 3 * units;
    const REAL *counts = p->counts;
    for (size_t t = 0; t < p->steps; t++) {
        REAL *gates = (REAL *)p->gates + t * p->gates_step, *h = (REAL *)p->h + t * p->h_step, *to_h = h + p->h_step,
             *part = (REAL *)p->c + t * p->c_step;
        NAMED(sum_inputs)(p, t, first, stop, h, gates, width);
        NAMED(multiply_matrices)(&p->tiles, h + first * units, units, 1, stop - first, &p->candidate, p->recurrent_bias,
                        part + first * units, units, 0);
        for (size_t row = first; row < stop; row++) {
            if (COUNTS(t, row))
                NAMED(gru_gates)(gates + row * width, part + row * units, h + row * units, to_h + row * units, units);
            else if (p->h_step)
                memcpy(to_h + row * units, h + row * units, units * sizeof(REAL));
        }
    }
}

/* Going back, p->h is dh: what reaches each state. A step adds its part to what reaches the state before it, unless the
   gradient is cut between them. The cuts of a sequence lie between its steps that count; `left` is how many of these come
   before the step, and padding passes on what reaches it. */
#define IS_CUT(ROW) (COUNTS(t, ROW) && p->truncate && left[(ROW) - first] % p->truncate == 0)

/* Count the steps of each sequence that count. Return NULL if there is no memory. */
static size_t *NAMED(steps_that_count)(const Recurrence *p, size_t first, size_t stop) {
    const REAL *counts = p->counts;
    size_t *left = calloc(stop - first, sizeof *left);
    for (size_t t = 0; left && t < p->steps; t++)
        for (size_t row = first; row < stop; row++) left[row - first] += COUNTS(t, row);
    return left;
}

/* Add the gradient of step t to what reaches the states before it. */
static void NAMED(pass_on)(const Recurrence *p, size_t t, size_t first, size_t stop, const size_t *left, const REAL *gradient,
                           size_t width) {
    const size_t units = p->units, step = p->batch * units;
    const REAL *counts = p->counts;
    REAL *const dh = (REAL *)p->h + t * step, *const before = dh - step;
    for (size_t row = first, end; row < stop; row = end + 1) { /* runs of sequences that are not cut here */
        for (end = row; end < stop && !IS_CUT(end); end++)
            ;
        if (end > row)
            NAMED(multiply_matrices)(&p->tiles, gradient + row * width, width, 1, end - row, &p->recurrent, NULL,
                                     before + row * units, units, 1);
    }
    for (size_t row = first; row < stop; row++)
        if (!COUNTS(t, row)) NAMED(add_to)(before + row * units, dh + row * units, units);
}

static void NAMED(lstm_backward)(const Job *job, size_t first, size_t stop) {
    const Recurrence *p = job->array[0];
    const size_t units = p->units, width = 4 * units, step = p->batch * units;
    const REAL *counts = p->counts;
    REAL *dc = calloc((stop - first) * units, sizeof(REAL));
    size_t *left = NAMED(steps_that_count)(p, first, stop);
    if (!dc || !left) atomic_store(job->no_memory, 1);
    for (size_t t = dc && left ? p->steps : 0; t--;) {
        const REAL *gates = (const REAL *)p->gates + t * p->batch * width, *c = (const REAL *)p->c + t * step,
                   *dh = (const REAL *)p->h + t * step;
        REAL *d_gates = (REAL *)p->d_gates + t * p->batch * width;
        for (size_t row = first; row < stop; row++) {
            REAL *own = dc + (row - first) * units;
            left[row - first] -= COUNTS(t, row);
            if (COUNTS(t, row))
                NAMED(lstm_slopes)(gates + row * width, c + row * units, c + step + row * units, dh + row * units, own,
                                   d_gates + row * width, units);
            else
                memset(d_gates + row * width, 0, width * sizeof(REAL));
            if (IS_CUT(row)) memset(own, 0, units * sizeof(REAL));
        }
        if (t) NAMED(pass_on)(p, t, first, stop, left, d_gates, width);
    }
    free(dc);
    free(left);
}

static void NAMED(gru_backward)(const Job *job, size_t first, size_t stop) {
    const Recurrence *p = job->array[0];
    const size_t units = p->units, width = 3 * units, step = p->batch * units;
    const REAL *counts = p->counts;
    size_t *left = NAMED(steps_that_count)(p, first, stop);
    if (!left) atomic_store(job->no_memory, 1);
    for (size_t t = left ? p->steps : 0; t--;) {
        const REAL *gates = (const REAL *)p->gates + t * p->batch * width, *part = (const REAL *)p->c + t * step,
                   *h = (const REAL *)p->x + t * step;
        REAL *dh = (REAL *)p->h + t * step, *d_gates = (REAL *)p->d_gates + t * p->batch * width,
             *d_products = (REAL *)p->d_products + t * p->batch * width;
        for (size_t row = first; row < stop; row++) {
            left[row - first] -= COUNTS(t, row);
            if (COUNTS(t, row)) {
                NAMED(gru_slopes)(gates + row * width, part + row * units, h + row * units, dh + row * units,
                                  d_gates + row * width, d_products + row * width, units);
                if (t && !IS_CUT(row))
                    NAMED(add_product)(dh - step + row * units, dh + row * units, gates + row * width + units, units);
            } else {
                memset(d_gates + row * width, 0, width * sizeof(REAL));
                memset(d_products + row * width, 0, width * sizeof(REAL));
            }
        }
        if (t) NAMED(pass_on)(p, t, first, stop, left, d_products, width);
    }
    free(left);
}

#undef EACH_UNIT
#undef COUNTS
#undef IS_CUT
