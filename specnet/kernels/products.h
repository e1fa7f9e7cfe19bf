/* Products of small matrices: the right factor is packed into panels of one or two vectors, for the tiles of tiles.h. */

/* Copy b, whose rows and columns are so many numbers apart, into panels, with zeros behind the last column. */
static void NAMED(pack_matrix)(const Tiles *tiles, const REAL *b, size_t depth, size_t columns, size_t row_step,
                               size_t column_step, REAL factor, REAL *to) {
    for (size_t first = 0, width; first < columns; first += width) {
        width = next_panel(tiles, columns - first);
        const size_t count = columns - first < width ? columns - first : width;
        for (size_t k = 0; k < depth; k++, to += width) {
            const REAL *from = b + k * row_step + first * column_step;
            if (column_step == 1)
                for (size_t j = 0; j < count; j++) to[j] = factor * from[j];
            else
                for (size_t j = 0; j < count; j++) to[j] = factor * from[j * column_step];
            for (size_t j = count; j < width; j++) to[j] = 0;
        }
    }
}

/* out = a @ b + bias, or out += a @ b if `added`; the rows of a are ra numbers apart, their elements ka. */
static void NAMED(multiply_matrices)(const Tiles *tiles, const REAL *a, size_t ra, size_t ka, size_t rows, const Right *b,
                            const REAL *bias, REAL *out, size_t ro, int added) {
    Segment whole = {0, 0, b->depth};
    Tile tile = {.segments = &whole, .count = 1, .ra = ra, .ka = ka, .ro = ro, .added = added};
    const REAL *panel = b->numbers;
    const size_t parts = (rows + tiles->rows - 1) / tiles->rows;
    for (size_t first = 0, width; first < b->columns; first += width) {
        width = next_panel(tiles, b->columns - first);
        tile.b = panel;
        tile.kb = b->row_step ? b->row_step : width;
        tile.columns = b->columns - first;
        tile.bias = bias ? bias + first : NULL;
        panel += b->row_step ? width : b->depth * width;
        for (size_t i = 0, row = 0, count; i < parts; i++, row += count) {
            count = rows / parts + (i < rows % parts);
            tile.a = a + row * ra;
            tile.out = out + row * ro + first;
            tiles->tile(&tile, (int)count, width > tiles->lanes ? 2 : 1, 0);
        }
    }
}

/* The units are the rows of the result. A right factor that lies in memory as it is may be deep, and is taken in parts. Where
   its rows are so far apart that they would meet in the cache, a panel of a part is packed first. */
static void NAMED(matmul)(const Job *job, size_t first, size_t stop) {
    const Product *p = job->array[0];
    const size_t columns = p->b.columns, lanes = p->tiles.lanes, rows = stop - first;
    const REAL *a = (const REAL *)p->a + first * p->ra;
    REAL *const out = (REAL *)p->out + first * columns;
    if (!p->b.row_step || p->b.row_step * sizeof(REAL) < FAR) {
        const size_t part = p->b.row_step ? DEPTH : p->b.depth;
        for (size_t k = 0; k < p->b.depth; k += part) {
            const Right b = {(const REAL *)p->b.numbers + k * p->b.row_step, p->b.depth - k < part ? p->b.depth - k : part,
                             columns, p->b.row_step};
            NAMED(multiply_matrices)(&p->tiles, a + k * p->ka, p->ra, p->ka, rows, &b, NULL, out, columns, k > 0);
        }
        return;
    }
    REAL *const room = allocated(DEPTH * 2 * lanes, sizeof(REAL));
    if (!room) {
        atomic_store(job->no_memory, 1);
        return;
    }
    for (size_t k = 0, depth; k < p->b.depth; k += depth) {
        depth = p->b.depth - k < DEPTH ? p->b.depth - k : DEPTH;
        for (size_t column = 0, width; column < columns; column += width) {
            width = next_panel(&p->tiles, columns - column);
            const Right panel = {room, depth, columns - column < width ? columns - column : width, 0};
            NAMED(pack_matrix)(&p->tiles, (const REAL *)p->b.numbers + k * p->b.row_step + column, depth, panel.columns,
                               p->b.row_step, 1, 1, room);
            NAMED(multiply_matrices)(&p->tiles, a + k * p->ka, p->ra, p->ka, rows, &panel, NULL, out + column, columns, k > 0);
        }
    }
    free(room);
}
