/* Dropout's masks, drawn by Philox 4x64-10 (Salmon et al. 2011): the same words as numpy's generator draws. */

static inline uint64_t product_high(uint64_t a, uint64_t b, uint64_t *low) {
    const unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
}

/* Encrypt a counter by a key: four words. */
static inline void philox(uint64_t *c, uint64_t key0, uint64_t key1) {
    for (int round = 0; round < 10; round++) {
        uint64_t low0, low1;
        const uint64_t high0 = product_high(0xD2E7470EE14C6C93u, c[0], &low0),
                       high1 = product_high(0xCA5A826395121157u, c[2], &low1);
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9E3779B97F4A7C15u;
        key1 += 0xBB67AE8584CAA73Bu;
    }
}
