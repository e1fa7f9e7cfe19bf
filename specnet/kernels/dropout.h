/* mask = 0 with the probability of a drop, else 1 / (1 - rate); y = x * mask. A row draws from its own counters, and so
   the same numbers wherever it stands in a batch. state: the key's two words, the first row, the step. */
WORK(dropout) {
    INPUT(x, 0); ARRAY(mask, 1); ARRAY(y, 2);
    const uint64_t *state = job->array[3];
    const size_t width = job->width, blocks = (width + 7) / 8;
    const double least = job->number[0];
    const REAL kept = (REAL)job->number[1];
    for (size_t i = first; i < stop; i++)
        for (size_t block = 0; block < blocks; block++) {
            uint64_t words[4] = {(state[2] + i) * blocks + block + 1, 0, state[3], 0};
            philox(words, state[0], state[1]);
            const size_t start = i * width + block * 8, count = width - block * 8 < 8 ? width - block * 8 : 8;
            for (size_t j = 0; j < count; j++) {
                const uint32_t word = (uint32_t)(words[j / 2] >> (j % 2 * 32));
                mask[start + j] = (double)word >= least ? kept : 0;
                y[start + j] = x[start + j] * mask[start + j];
            }
        }
}
