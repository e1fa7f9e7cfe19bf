/* Lets numpy's OpenBLAS compute its products on the pool's threads instead of its own.

   After a product, OpenBLAS's own threads keep their cores busy for some 20 ms while they wait for the next one, and the
   pool would get none. OpenBLAS has an entry for this purpose, openblas_set_threads_callback_function (from 0.3.28 on):
   a product then comes as parts that must run at the same time, each on a thread of its own. The parts, and so the bits
   of a product, are the same as before. Where numpy uses another BLAS, or an older OpenBLAS, nothing changes; nor where
   the pool cannot have as many threads as OpenBLAS. */

#include <stdio.h>

typedef void (*BlasPart)(int number, void *data, int buffer);

static struct {
    BlasPart part;
    char *data;
    size_t size; /* of a part's data */
    int buffer;
    _Atomic uint32_t taken;
} product;

static void take_part(size_t thread) {
    const uint32_t number = atomic_fetch_add(&product.taken, 1);
    (void)thread;
    product.part((int)number, product.data + number * product.size, product.buffer);
}

static void run_product(int sync, BlasPart part, int parts, size_t size, void *data, int buffer) {
    (void)sync;
    pthread_mutex_lock(&pool.owner);
    start_threads(parts);
    if (pool.threads < parts) { /* parts wait for each other, so no result can be had */
        fputs("specnet: the system starts no threads for a product of matrices; set OPENBLAS_NUM_THREADS=1\n", stderr);
        abort();
    }
    const uint32_t places = (uint32_t)parts - 1;
    product.part = part;
    product.data = data;
    product.size = size;
    product.buffer = buffer;
    atomic_store(&product.taken, 0);
    open_door(take_part, places);
    take_part(0);
    while ((uint32_t)atomic_load(&pool.door)) { /* until every part has a thread */
        wake_two();
        sched_yield();
    }
    close_door(places);
    pthread_mutex_unlock(&pool.owner);
}

#ifdef __linux__
#include <dlfcn.h>
#include <link.h>

static int is_numpy(struct dl_phdr_info *info, size_t size, void *path) {
    (void)size;
    if (!strstr(info->dlpi_name, "_multiarray_umath")) return 0;
    *(const char **)path = info->dlpi_name;
    return 1;
}

/* Look the entry up in the libraries that numpy's own module was linked with. */
static void adopt_blas(void) {
    static const char *const prefixes[] = {"scipy_", "", ""}, *const suffixes[] = {"64_", "64_", ""};
    const char *path = NULL;
    dl_iterate_phdr(is_numpy, &path);
    void *numpy = path ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    if (!numpy) return;
    for (int i = 0; i < 3; i++) {
        char name[64];
        int (*number)(void);
        void (*adopt)(void (*)(int, BlasPart, int, size_t, void *, int));
        snprintf(name, sizeof name, "%sopenblas_get_num_threads%s", prefixes[i], suffixes[i]);
        *(void **)&number = dlsym(numpy, name);
        snprintf(name, sizeof name, "%sopenblas_set_threads_callback_function%s", prefixes[i], suffixes[i]);
        *(void **)&adopt = dlsym(numpy, name);
        if (!number || !adopt) continue;
        start_threads(number());
        if (number() <= pool.threads) adopt(run_product);
        break;
    }
    dlclose(numpy);
}
#else
static void adopt_blas(void) {}
#endif
