/* Small matrix products that stay in registers, the inner loops of convolution (convolution.h):

       out[r, :] = start + sum over the segments s and k < s.length of a[s.a + r * ra + k * ka] * b[s.b + k * kb + :]

   for up to TILE_ROWS rows and one or two vectors of columns. Each element of `out` is one chain of multiply-adds in the
   order of the segments, so it has the same bits for every vector length. In a `depthwise` tile, a is a vector too.

   Included once for each type and kind of tile: VECTOR is the length of a vector in bytes, TILE_VECTORS and TILE_ROWS as
   many of them as there are registers for, TARGET the processor, TILED(f) appends the names of type and kind. */

#define EACH(I, COUNT) _Pragma("GCC unroll 14") for (int I = 0; I < COUNT; I++)

typedef REAL TILED(vector) __attribute__((vector_size(VECTOR), aligned(sizeof(REAL))));
typedef BITS TILED(mask) __attribute__((vector_size(VECTOR)));

static inline __attribute__((always_inline)) FUSED TARGET void TILED(product)(const Tile *t, const int rows,
                                                                             const int vectors, const int depthwise) {
    FUSED_BODY
    enum { LANES = VECTOR / sizeof(REAL) };
    TILED(vector) sum[TILE_ROWS][2], w[2];
    EACH(r, rows)
        EACH(v, vectors) sum[r][v] = (TILED(vector)){0};
    for (size_t s = 0; s < t->count; s++) {
        const REAL *a = (const REAL *)t->a + t->segments[s].a, *b = (const REAL *)t->b + t->segments[s].b;
        const size_t length = t->segments[s].length, ra = t->ra, ka = t->ka, kb = t->kb;
        for (size_t k = 0; k < length; k++, a += ka, b += kb) {
            EACH(v, vectors) w[v] = *(const TILED(vector) *)(b + v * LANES);
            EACH(r, rows) {
                if (depthwise)
                    EACH(v, vectors)
                        sum[r][v] += *(const TILED(vector) *)(a + r * ra + v * LANES) * w[v];
                else
                    EACH(v, vectors) sum[r][v] += a[r * ra] * w[v];
            }
        }
    }
    if (t->bias)
        EACH(v, vectors) {
            w[v] = *(const TILED(vector) *)((const REAL *)t->bias + v * LANES);
            EACH(r, rows) sum[r][v] += w[v];
        }
    if (t->rectified)
        EACH(r, rows)
            EACH(v, vectors) { /* a NaN stays a NaN */
                const TILED(mask) kept = (sum[r][v] > 0) | (sum[r][v] != sum[r][v]);
                sum[r][v] = (TILED(vector))((TILED(mask))sum[r][v] & kept);
            }
    /* The last columns may not fill their vectors. What is written behind them is right when the next row follows. */
    const size_t end = (size_t)(rows - 1) * t->ro + t->columns;
    EACH(r, rows) {
        REAL *out = (REAL *)t->out + r * t->ro;
        if (t->columns >= (size_t)(vectors * LANES) ||
            (!t->added && t->ro == t->columns && r * t->ro + vectors * LANES <= end)) {
            EACH(v, vectors) {
                TILED(vector) *at = (TILED(vector) *)(out + v * LANES);
                *at = t->added ? *at + sum[r][v] : sum[r][v];
            }
            continue;
        }
        REAL all[2 * LANES];
        EACH(v, vectors) *(TILED(vector) *)(all + v * LANES) = sum[r][v];
        for (size_t c = 0; c < t->columns; c++) out[c] = t->added ? out[c] + all[c] : all[c];
    }
}

#define TILE_OF(R, V, D) case (R) * 4 + (V) * 2 - 2 + (D): TILED(product)(t, R, V, D); break;
#if TILE_VECTORS == 2
#define TILES_OF(R) TILE_OF(R, 1, 0) TILE_OF(R, 1, 1) TILE_OF(R, 2, 0) TILE_OF(R, 2, 1)
#else
#define TILES_OF(R) TILE_OF(R, 1, 0) TILE_OF(R, 1, 1)
#endif

static FUSED TARGET __attribute__((noinline)) void TILED(tile)(const Tile *t, int rows, int vectors, int depthwise) {
    switch (rows * 4 + vectors * 2 - 2 + depthwise) {
        TILES_OF(1) TILES_OF(2) TILES_OF(3)
#if TILE_ROWS >= 6
        TILES_OF(4) TILES_OF(5) TILES_OF(6)
#endif
#if TILE_ROWS >= 8
        TILES_OF(7) TILES_OF(8)
#endif
#if TILE_ROWS >= 14
        TILES_OF(9) TILES_OF(10) TILES_OF(11) TILES_OF(12) TILES_OF(13) TILES_OF(14)
#endif
    }
}

#undef EACH
#undef TILE_OF
#undef TILES_OF
