/* Convolution without an array of unfolded windows: tiles of the output are computed in registers, straight from x.

   x is (images, height, width, channels), y (images, out_height, out_width, filters), weight (kernel_height,
   kernel_width, channels / groups, filters). Positions outside of x count as zeros. With `back`, x is computed from y,
   as the gradient of a convolution, which is also what a transposed convolution computes. See geometry.h. */

/* The tiles of the widest vectors that this processor has and that so many columns do not leave half empty. */
static Tiles NAMED(tiles_for)(size_t columns) {
#ifdef X86
    if (__builtin_cpu_supports("avx512vl"))
        return columns > 32 / sizeof(REAL) ? (Tiles){NAMED(tile_avx512), 64 / sizeof(REAL), 8}
                                           : (Tiles){NAMED(tile_narrow), 32 / sizeof(REAL), 14};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (Tiles){NAMED(tile_avx2), 32 / sizeof(REAL), 6};
#endif
    (void)columns;
    return (Tiles){NAMED(tile_any), 16 / sizeof(REAL), ANY_ROWS};
}

/* Copy the weight and the bias into panels: for each group and each one or two vectors of its outputs, a dense
   (positions, inputs, width) with zeros behind the last output. Going back, the inputs are the filters, the outputs the
   channels, and the positions are reversed. A depthwise convolution has one input for each output. */
static void NAMED(pack)(Conv *c, const REAL *bias) {
    const size_t positions = c->kernel[0] * c->kernel[1], inputs = group_inputs(c), outputs = group_outputs(c),
                 channels = c->channels / c->groups, input_step = c->back ? 1 : c->filters,
                 output_step = c->depthwise || !c->back ? 1 : c->filters;
    REAL *to = c->packed, *shift = c->bias;
    for (size_t group = 0; group < group_count(c); group++)
        for (size_t first = 0, width; first < outputs; first += width) {
            width = panel_width(c, outputs - first);
            const size_t count = outputs - first < width ? outputs - first : width;
            for (size_t p = 0; p < positions; p++) {
                const REAL *weight = (const REAL *)c->weight + (c->back ? positions - 1 - p : p) * channels * c->filters +
                                     group * (c->filters / c->groups) + first * output_step;
                for (size_t i = 0; i < inputs; i++, to += width)
                    for (size_t o = 0; o < width; o++)
                        to[o] = o < count ? weight[i * input_step + o * output_step] : 0;
            }
            if (bias)
                for (size_t o = 0; o < width; o++) *shift++ = o < count ? bias[group * outputs + first + o] : 0;
        }
}

/* Return rows [from, to) of an image of the input: in place, or copied between zeros if windows reach over the sides, or
   if vectors reach over the end of the array. */
static const REAL *NAMED(rows_of)(const Conv *c, size_t image, size_t from, size_t to, REAL *room) {
    const Plane *in = &c->in;
    const size_t row = in->width * in->channels, left = in->left * in->channels;
    const REAL *x = (const REAL *)in->data + (image * in->height + from) * row;
    const size_t behind = ((c->images - image) * in->height - to) * row;
    if (!in->copied && !(in->overrun && behind < 2 * c->tiles.lanes)) return x;
    for (REAL *own = room; from < to; from++, own += in->row, x += row) {
        memset(own, 0, left * sizeof(REAL));
        memcpy(own + left, x, row * sizeof(REAL));
        memset(own + left + row, 0, (in->row - left - row) * sizeof(REAL));
    }
    return room;
}

/* Compute a row of outputs for one panel, `out`, from the rows of the input that begin at `source`. */
static void NAMED(convolve_line)(const Conv *c, Tile *tile, size_t row, size_t from, size_t input, const REAL *source,
                                 REAL *out) {
    const int vectors = tile->kb > c->tiles.lanes ? 2 : 1;
    for (size_t phase = 0; phase < (size_t)c->spread[1] && phase < c->out.width; phase++) {
        const size_t columns = (c->out.width - phase - 1) / (size_t)c->spread[1] + 1,
                     tiles = (columns + c->tiles.rows - 1) / c->tiles.rows;
        tile->count = segments_of(c, row, phase, from, input, tile->kb, tile->segments);
        for (size_t i = 0, column = 0, rows; i < tiles; i++, column += rows) {
            rows = columns / tiles + (i < columns % tiles);
            tile->a = source + column * tile->ra;
            tile->out = out + phase * c->out.channels + column * tile->ro;
            c->tiles.tile(tile, (int)rows, vectors, c->depthwise);
        }
    }
}

/* The units are the rows of all images of the output. */
static void NAMED(convolve)(const Job *job, size_t first, size_t stop) {
    const Conv *c = job->array[0];
    const size_t height = c->out.height, positions = c->kernel[0] * c->kernel[1], inputs = group_inputs(c),
                 outputs = group_outputs(c), line = c->out.width * c->out.channels;
    REAL *room = allocated(c->room + positions * sizeof(Segment), 1);
    if (!room) {
        atomic_store(job->no_memory, 1);
        return;
    }
    Tile tile = {.segments = (Segment *)((char *)room + c->room), .ra = (size_t)c->stride[1] * c->in.channels, .ka = 1,
                 .ro = (size_t)c->spread[1] * c->out.channels, .rectified = c->rectified};
    for (size_t unit = first, count; unit < stop; unit += count) {
        const size_t image = unit / height, start = unit % height;
        size_t from, to;
        count = height - start < c->block ? height - start : c->block;
        if (count > stop - unit) count = stop - unit;
        source_rows(c, start, start + count, &from, &to);
        const REAL *source = NAMED(rows_of)(c, image, from, to, room), *panel = c->packed, *bias = c->bias;
        for (size_t group = 0; group < group_count(c); group++)
            for (size_t output = 0, width; output < outputs; output += width, panel += positions * inputs * width) {
                width = panel_width(c, outputs - output);
                tile.b = panel;
                tile.kb = width;
                tile.columns = outputs - output;
                tile.bias = bias;
                if (bias) bias += width;
                for (size_t row = start; row < start + count; row++)
                    NAMED(convolve_line)(c, &tile, row, from, c->depthwise ? output : group * inputs, source,
                                         (REAL *)c->out.data + (image * height + row) * line + group * outputs + output);
            }
    }
    free(room);
}

/* Add a block of rows of one image to the gradient of one panel of filters; tile->b is dy there. */
static void NAMED(add_block)(const Conv *c, Tile *tile, size_t start, size_t stop, size_t from, size_t input,
                             const REAL *source, REAL *sums) {
    const int vectors = tile->ro > c->tiles.lanes ? 2 : 1;
    const size_t inputs = group_inputs(c), joined = c->depthwise || (c->groups == 1 && c->dilation[1] == 1),
                 runs = joined ? 1 : c->kernel[1], length = c->kernel[1] * inputs / runs,
                 tiles = (length + c->tiles.rows - 1) / c->tiles.rows;
    for (size_t i = 0; i < c->kernel[0]; i++) {
        tile->count = 0;
        for (size_t row = start; row < stop; row++) {
            const ptrdiff_t at = source_of(c, 0, row, i);
            if (at < 0 || at >= (ptrdiff_t)c->in.height) continue;
            tile->segments[tile->count++] = (Segment){((size_t)at - from) * c->in.row,
                                                      (row - start) * c->out.width * tile->kb, c->out.width};
        }
        for (size_t run = 0; run < runs; run++) {
            const ptrdiff_t left = (ptrdiff_t)c->in.left - c->padding[1] + (ptrdiff_t)run * c->dilation[1];
            const REAL *a = source + (size_t)left * c->in.channels + input;
            for (size_t t = 0, r = 0, rows; t < tiles; t++, r += rows, sums += rows * tile->ro, a += rows * tile->ra) {
                rows = length / tiles + (t < length % tiles);
                tile->a = a;
                tile->out = sums;
                c->tiles.tile(tile, (int)rows, vectors, c->depthwise);
            }
        }
    }
}

/* The units are (part of the images, panel of filters). Each part has sums of its own, which are added afterwards, because
   a sum must not depend on who computes it. */
static void NAMED(convolve_weight)(const Job *job, size_t first, size_t stop) {
    const Conv *c = job->array[0];
    const size_t height = c->out.height, outputs = group_outputs(c), inputs = group_inputs(c), filters = c->filters,
                 span = c->kernel[0] * c->kernel[1] * inputs * 2 * c->tiles.lanes, per_group = c->panels / group_count(c),
                 copied = c->block * c->out.width * 2 * c->tiles.lanes;
    REAL *room = allocated(c->room + copied * sizeof(REAL) + c->block * sizeof(Segment), 1);
    if (!room) {
        atomic_store(job->no_memory, 1);
        return;
    }
    REAL *const copy = (REAL *)((char *)room + c->room);
    Tile tile = {.segments = (Segment *)(copy + copied), .ra = c->depthwise ? (size_t)c->dilation[1] * c->channels : 1,
                 .ka = (size_t)c->stride[1] * c->channels, .added = 1};
    for (size_t unit = first; unit < stop; unit++) {
        const size_t part = unit / c->panels, panel = unit % c->panels, group = panel / per_group,
                     output = panel % per_group * 2 * c->tiles.lanes, width = panel_width(c, outputs - output),
                     count = outputs - output < width ? outputs - output : width;
        REAL *const sums = (REAL *)c->sums + unit * span;
        memset(sums, 0, span * sizeof(REAL));
        tile.ro = tile.columns = width;
        for (size_t image = part * c->images / c->parts; image < (part + 1) * c->images / c->parts; image++)
            for (size_t start = 0, end; start < height; start = end) {
                size_t from, to;
                end = start + c->block < height ? start + c->block : height;
                source_rows(c, start, end, &from, &to);
                const REAL *source = NAMED(rows_of)(c, image, from, to, room),
                           *dy = (const REAL *)c->out.data + (image * height + start) * c->out.width * filters +
                                 group * outputs + output;
                tile.b = dy;
                tile.kb = filters;
                const size_t behind = ((c->images - image) * height - end) * c->out.width * filters;
                if (count < width && behind < width) { /* vectors reach over the end of dy */
                    for (size_t p = 0; p < (end - start) * c->out.width; p++)
                        for (size_t o = 0; o < width; o++) copy[p * width + o] = o < count ? dy[p * filters + o] : 0;
                    tile.b = copy;
                    tile.kb = width;
                }
                NAMED(add_block)(c, &tile, start, end, from, c->depthwise ? output : group * inputs, source, sums);
            }
    }
    free(room);
}

/* Add the parts in their order, and write the sums where they belong. The units are the positions of the kernel. */
static void NAMED(add_parts_of_weight)(const Job *job, size_t first, size_t stop) {
    const Conv *c = job->array[0];
    const size_t inputs = group_inputs(c), outputs = group_outputs(c), per_group = c->panels / group_count(c),
                 span = c->kernel[0] * c->kernel[1] * inputs * 2 * c->tiles.lanes;
    for (size_t row = first * inputs; row < stop * inputs; row++)
        for (size_t panel = 0; panel < c->panels; panel++) {
            const size_t output = panel % per_group * 2 * c->tiles.lanes, width = panel_width(c, outputs - output),
                         count = outputs - output < width ? outputs - output : width;
            const REAL *sums = (const REAL *)c->sums + panel * span + row * width;
            REAL *to = (REAL *)c->gradient + row * c->filters + panel / per_group * outputs + output;
            memcpy(to, sums, count * sizeof(REAL));
            for (size_t part = 1; part < c->parts; part++)
                for (size_t o = 0; o < count; o++) to[o] += sums[part * c->panels * span + o];
        }
}
