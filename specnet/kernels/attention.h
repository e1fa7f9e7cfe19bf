/* Attention: what every head of every sequence finds, and the gradients. A row of `projected` holds the queries of all
   heads, then the keys, then the values. The products of one head stay in the cache. */

/* Make a row of scores a distribution over the steps that are seen; 0 everywhere if there are none. */
EVERY_PROCESSOR static void NAMED(distribute)(REAL *restrict row, const REAL *restrict counts, size_t seen, size_t steps) {
    REAL most = -INFINITY, sum = 0;
    if (counts)
        for (size_t j = 0; j < seen; j++) row[j] = counts[j] != 0 ? row[j] : -INFINITY;
#pragma omp simd reduction(max : most)
    for (size_t j = 0; j < seen; j++) most = row[j] > most ? row[j] : most;
    const REAL shift = most == -INFINITY ? 0 : most;
    for (size_t j = 0; j < seen; j++) row[j] = OF(exp)(row[j] - shift);
    for (size_t j = seen; j < steps; j++) row[j] = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < seen; j++) sum += row[j];
    const REAL inverse = sum > 0 ? 1 / sum : sum;
    INDEPENDENT for (size_t j = 0; j < seen; j++) row[j] *= inverse;
}

/* The gradient of a row of scores from that of its distribution, times `scale`. */
EVERY_PROCESSOR static void NAMED(distribute_back)(const REAL *restrict row, REAL *restrict d, REAL scale, size_t steps) {
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < steps; j++) sum += row[j] * d[j];
    INDEPENDENT for (size_t j = 0; j < steps; j++) d[j] = row[j] * (d[j] - sum) * scale;
}

/* The units are the heads of all sequences. */
static void NAMED(attention)(const Job *job, size_t first, size_t stop) {
    const Heads *p = job->array[0];
    const size_t steps = p->steps, size = p->size, width = p->heads * size;
    REAL *room = allocated(packed_size(&p->wide, size, steps) + packed_size(&p->narrow, steps, size), sizeof(REAL));
    if (!room) {
        atomic_store(job->no_memory, 1);
        return;
    }
    REAL *const keys = room, *const values = room + packed_size(&p->wide, size, steps);
    const Right k = {keys, size, steps, 0}, v = {values, steps, size, 0};
    for (size_t unit = first; unit < stop; unit++) {
        const size_t sequence = unit / p->heads, head = unit % p->heads;
        const REAL *query = (const REAL *)p->projected + sequence * steps * 3 * width + head * size,
                   *counts = p->counts ? (const REAL *)p->counts + sequence * steps : NULL;
        REAL *scores = (REAL *)p->attention + unit * steps * steps,
             *found = (REAL *)p->joined + sequence * steps * width + head * size;
        NAMED(pack_matrix)(&p->wide, query + width, size, steps, 1, 3 * width, (REAL)p->scale, keys);
        NAMED(pack_matrix)(&p->narrow, query + 2 * width, steps, size, 3 * width, 1, 1, values);
        NAMED(multiply_matrices)(&p->wide, query, 3 * width, 1, steps, &k, NULL, scores, steps, 0);
        for (size_t i = 0; i < steps; i++)
            NAMED(distribute)(scores + i * steps, counts, p->causal ? i + 1 : steps, steps);
        NAMED(multiply_matrices)(&p->narrow, scores, steps, 1, steps, &v, NULL, found, width, 0);
    }
    free(room);
}

static void NAMED(attention_backward)(const Job *job, size_t first, size_t stop) {
    const Heads *p = job->array[0];
    const size_t steps = p->steps, size = p->size, width = p->heads * size, tall = packed_size(&p->narrow, steps, size),
                 flat = packed_size(&p->wide, size, steps);
    REAL *room = allocated(flat + tall + steps * steps, sizeof(REAL));
    if (!room) {
        atomic_store(job->no_memory, 1);
        return;
    }
    REAL *const packed = room + flat, *const d_scores = packed + tall;
    const Right across = {room, size, steps, 0}, down = {packed, steps, size, 0};
    for (size_t unit = first; unit < stop; unit++) {
        const size_t sequence = unit / p->heads, head = unit % p->heads,
                     at = sequence * steps * 3 * width + head * size;
        const REAL *query = (const REAL *)p->projected + at, *scores = (const REAL *)p->attention + unit * steps * steps,
                   *d_found = (const REAL *)p->joined + sequence * steps * width + head * size;
        REAL *d_query = (REAL *)p->d_projected + at;
        NAMED(pack_matrix)(&p->wide, query + 2 * width, size, steps, 1, 3 * width, 1, room);
        NAMED(multiply_matrices)(&p->wide, d_found, width, 1, steps, &across, NULL, d_scores, steps, 0);
        for (size_t i = 0; i < steps; i++)
            NAMED(distribute_back)(scores + i * steps, d_scores + i * steps, (REAL)p->scale, steps);
        NAMED(pack_matrix)(&p->narrow, d_found, steps, size, width, 1, 1, packed);
        NAMED(multiply_matrices)(&p->narrow, scores, 1, steps, steps, &down, NULL, d_query + 2 * width, 3 * width, 0);
        NAMED(pack_matrix)(&p->narrow, query + width, steps, size, 3 * width, 1, 1, packed);
        NAMED(multiply_matrices)(&p->narrow, d_scores, steps, 1, steps, &down, NULL, d_query, 3 * width, 0);
        NAMED(pack_matrix)(&p->narrow, query, steps, size, 3 * width, 1, 1, packed);
        NAMED(multiply_matrices)(&p->narrow, d_scores, 1, steps, steps, &down, NULL, d_query + width, 3 * width, 0);
    }
    free(room);
}
