/* Pools over windows of images (images, height, width, channels). Positions in the padding are left out, but averages may
   count them. See Pool in geometry.h. */

#define WINDOWS(UNIT)                                                                                                  \
    const Span rows = window_at(&p, 0, UNIT % p.out_height);                                                           \
    for (size_t q = 0; q < p.out_width; q++)                                                                           \
        for (size_t start = 0; start < p.channels; start += POOLED)
#define WINDOW                                                                                                         \
    const Span columns = window_at(&p, 1, q);                                                                          \
    const size_t count = p.channels - start < POOLED ? p.channels - start : POOLED;
#define POSITIONS                                                                                                      \
    for (size_t i = rows.from; i < rows.to; i++)                                                                       \
        for (size_t j = columns.from; j < columns.to; j++)
#define LARGER(A, B) (((A) > (B)) | ((A) != (A)) ? (A) : (B)) /* a NaN is larger than any number */
#define CHANNELS INDEPENDENT for (size_t c = 0; c < count; c++)

#define FEW (count < 12) /* channels that do not fill a vector are computed one after the other */

/* The place of a window's first maximum in one channel, or of its first NaN. */
static inline size_t NAMED(first_maximum)(const REAL *image, const Pool *p, Span rows, Span columns, size_t channel) {
    size_t best = (rows.from * p->width + columns.from) * p->channels + channel;
    REAL most = image[best];
    for (size_t i = rows.from; i < rows.to; i++) {
        size_t at = (i * p->width + columns.from) * p->channels + channel;
        for (size_t j = columns.from; j < columns.to; j++, at += p->channels) {
            const int larger = (image[at] > most) | (image[at] != image[at] && most == most);
            best = larger ? at : best;
            most = larger ? image[at] : most;
        }
    }
    return best;
}

/* The units are the rows of all images of y: the maxima of the columns below each other come first, in one long row. */
WORK(max_pool) {
    INPUT(x, 0); ARRAY(y, 1);
    const Pool p = pool_of(job);
    const size_t line = p.width * p.channels;
    REAL *const maxima = allocated(line, sizeof(REAL));
    if (!maxima) {
        atomic_store(job->no_memory, 1);
        return;
    }
    for (size_t unit = first; unit < stop; unit++) {
        const Span rows = window_at(&p, 0, unit % p.out_height);
        const REAL *in = x + unit / p.out_height * p.image + rows.from * line;
        memcpy(maxima, in, line * sizeof(REAL));
        for (size_t i = rows.from + 1; i < rows.to; i++) {
            in += line;
            INDEPENDENT
            for (size_t c = 0; c < line; c++) maxima[c] = LARGER(in[c], maxima[c]);
        }
        for (size_t q = 0; q < p.out_width; q++) {
            const Span columns = window_at(&p, 1, q);
            const REAL *from = maxima + columns.from * p.channels;
            REAL *out = y + (unit * p.out_width + q) * p.channels;
            for (size_t c = 0; c < p.channels; c++) out[c] = from[c];
            for (size_t j = columns.from + 1; j < columns.to; j++) {
                from += p.channels;
                INDEPENDENT
                for (size_t c = 0; c < p.channels; c++) out[c] = LARGER(from[c], out[c]);
            }
        }
    }
    free(maxima);
}

/* Each window's gradient goes to the first of its largest numbers. The units are images. */
WORK(max_pool_backward) {
    INPUT(x, 0); INPUT(dy, 1); ARRAY(dx, 2);
    const Pool p = pool_of(job);
    memset(dx + first * p.image, 0, (stop - first) * p.image * sizeof(REAL));
    for (size_t unit = first * p.out_height; unit < stop * p.out_height; unit++) {
        const REAL *image = x + unit / p.out_height * p.image;
        REAL *gradient = dx + unit / p.out_height * p.image;
        WINDOWS(unit) {
            WINDOW
            const REAL *up = dy + (unit * p.out_width + q) * p.channels + start;
            if (FEW || (rows.to - rows.from) * (columns.to - columns.from) > MOST_POSITIONS) {
                for (size_t c = 0; c < count; c++)
                    gradient[NAMED(first_maximum)(image, &p, rows, columns, start + c)] += up[c];
                continue;
            }
            REAL most[POOLED], best[POOLED], tap = 0;
            CHANNELS best[c] = 0;
            memcpy(most, image + (rows.from * p.width + columns.from) * p.channels + start, count * sizeof(REAL));
            POSITIONS {
                const REAL *in = image + (i * p.width + j) * p.channels + start;
                CHANNELS {
                    const int larger = (in[c] > most[c]) | ((in[c] != in[c]) & (most[c] == most[c]));
                    best[c] = larger ? tap : best[c];
                    most[c] = larger ? in[c] : most[c];
                }
                tap += 1;
            }
            tap = 0;
            POSITIONS {
                REAL *out = gradient + (i * p.width + j) * p.channels + start;
                CHANNELS out[c] += best[c] == tap ? up[c] : 0;
                tap += 1;
            }
        }
    }
}

WORK(average_pool) {
    INPUT(x, 0); ARRAY(y, 1);
    const Pool p = pool_of(job);
    for (size_t unit = first; unit < stop; unit++) {
        const REAL *image = x + unit / p.out_height * p.image;
        WINDOWS(unit) {
            WINDOW
            const double all = (double)counted(&p, rows, columns);
            REAL *out = y + (unit * p.out_width + q) * p.channels + start, part[POOLED];
            double sum[POOLED]; /* of parts, as a long sum of floats loses digits */
            size_t summed = 0;
            CHANNELS part[c] = 0;
            CHANNELS sum[c] = 0;
            POSITIONS {
                const REAL *in = image + (i * p.width + j) * p.channels + start;
                CHANNELS part[c] += in[c];
                if (++summed % PART) continue;
                CHANNELS sum[c] += (double)part[c];
                CHANNELS part[c] = 0;
            }
            CHANNELS out[c] = (REAL)((sum[c] + (double)part[c]) / all);
        }
    }
}

WORK(average_pool_backward) {
    INPUT(dy, 0); ARRAY(dx, 1);
    const Pool p = pool_of(job);
    memset(dx + first * p.image, 0, (stop - first) * p.image * sizeof(REAL));
    for (size_t unit = first * p.out_height; unit < stop * p.out_height; unit++) {
        REAL *gradient = dx + unit / p.out_height * p.image;
        WINDOWS(unit) {
            WINDOW
            const REAL all = (REAL)counted(&p, rows, columns), *up = dy + (unit * p.out_width + q) * p.channels + start;
            REAL share[POOLED];
            CHANNELS share[c] = up[c] / all;
            POSITIONS {
                REAL *out = gradient + (i * p.width + j) * p.channels + start;
                CHANNELS out[c] += share[c];
            }
        }
    }
}

#undef WINDOWS
#undef WINDOW
#undef POSITIONS
#undef CHANNELS
#undef LARGER
#undef FEW
