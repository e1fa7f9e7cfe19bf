/* Divides large jobs among the cores: one pool of threads per process, which starts when a job first needs it.

   A job is cut into shares, and these into pieces. Each thread takes the pieces of its own share, which its cache may
   hold from the last job, and then what is left of the others. Whoever computes a piece, it has the same bits: a sum is
   never cut, or over fixed blocks that are added in their order. The caller waits only for threads that have joined, so
   a thread that gets no core delays nothing. If the pool is in use, by a job of another Python thread, the caller
   computes alone. A forked child starts its own threads. */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    MOST_THREADS = 64,  /* as many as the OpenBLAS in numpy's wheels has at most */
    PIECES = 4,         /* most pieces per share, unless they are large */
    GRAIN = 12 * 1024,  /* least cost of a piece, in elements of the cheapest pass: a few microseconds */
    WAITS = 500,        /* times that a thread without work yields its core before it sleeps: 0.2 ms on an idle core */
    LINE = 64           /* bytes of a cache line */
};

typedef struct Job {
    void (*work)(const struct Job *, size_t first, size_t stop); /* computes some of the units */
    size_t count;       /* units: elements, rows or columns */
    size_t cost;        /* of a unit */
    size_t align, lead; /* a piece starts at a multiple of `align` units, plus `lead`: no two write one cache line */
    size_t rows, width; /* of the matrices */
    void *array[10];
    double number[4];
    int64_t setting[7];   /* integers, copied before they are checked: another thread may change an array at any time */
    _Atomic int *no_memory; /* set by a work that gets none; its caller raises an error */
} Job;

static struct {
    pthread_mutex_t owner;           /* held by the caller whose work runs */
    pthread_mutex_t lock;            /* for `wake` */
    pthread_cond_t wake;
    _Atomic uint64_t door;           /* number of the work << 32, plus the places that are left */
    _Atomic uint32_t sleepers, left; /* threads that sleep, and that have finished their part of this work */
    void (*part)(size_t thread);     /* does a thread's part of it */
    int threads;                     /* with the caller; 0 until they are started */
    int allowed;                     /* of these, for jobs; products may have more */
    const Job *job;
    size_t shares, pieces, piece;    /* of the job; pieces of a share; units of a piece */
    struct { _Alignas(LINE) _Atomic size_t taken; } share[MOST_THREADS]; /* pieces of each share */
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static int cores(void) {
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* The number in an environment variable, as OpenBLAS reads it; 0 if it is not set. */
static int setting(const char *name) {
    const char *text = getenv(name);
    const long number = text ? strtol(text, NULL, 10) : 0;
    return number < 1 ? 0 : number > MOST_THREADS ? MOST_THREADS : (int)number;
}

static int allowed_threads(void) {
    const int exact = setting("SPECNET_THREADS");
    if (exact) return exact;
    int most = setting("OPENBLAS_NUM_THREADS");
    if (!most) most = setting("OMP_NUM_THREADS");
    if (!most) most = MOST_THREADS;
    const int number = cores();
    return number < 1 ? 1 : number < most ? number : most;
}

/* Wake two threads that sleep. Each that finds work wakes two more, so that the caller soon begins to compute. */
static void wake_two(void) {
    if (!atomic_load(&pool.sleepers)) return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_signal(&pool.wake);
    pthread_cond_signal(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
}

/* Wait for work other than the last one seen; return the door. */
static uint64_t other_work(uint64_t seen) {
    uint64_t door;
    for (int i = 0; i < WAITS; i++) {
        door = atomic_load(&pool.door);
        if (door >> 32 != seen) return door;
        sched_yield();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleepers, 1);
    while ((door = atomic_load(&pool.door)) >> 32 == seen) pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.lock);
    return door;
}

static void *work_forever(void *number) {
    for (uint64_t seen = 0, door = 0;;) {
        if (door >> 32 == seen) door = other_work(seen);
        seen = door >> 32;
        while (door >> 32 == seen && (uint32_t)door) {
            if (!atomic_compare_exchange_weak(&pool.door, &door, door - 1)) continue; /* `door` is read again */
            if ((uint32_t)door > 1) wake_two();
            pool.part((size_t)(uintptr_t)number);
            atomic_fetch_add(&pool.left, 1);
            break;
        }
    }
    return NULL;
}

/* Start threads up to a number. They are never joined, take no signals, and end with the process. */
static void start_threads(int threads) {
    sigset_t all, before;
    pthread_attr_t attributes;
    if (!pool.threads) pool.threads = 1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads <= pool.threads || pthread_attr_init(&attributes)) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool.threads < threads; pool.threads++)
        if (pthread_create(&thread, &attributes, work_forever, (void *)(uintptr_t)pool.threads)) break;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static void forget_threads(void) { /* in a forked child, which has none */
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    atomic_store(&pool.door, 0);
    atomic_store(&pool.sleepers, 0);
    pool.threads = pool.allowed = 0;
}

/* Let threads join in a work, as many as there are places. */
static void open_door(void (*part)(size_t), uint32_t places) {
    const uint64_t number = (atomic_load(&pool.door) >> 32) + 1;
    pool.part = part;
    atomic_store(&pool.left, 0);
    atomic_store(&pool.door, number << 32 | places);
    wake_two();
}

/* Let no more threads join, and wait for those that have. */
static void close_door(uint32_t places) {
    const uint32_t joined = places - (uint32_t)atomic_fetch_and(&pool.door, ~(uint64_t)UINT32_MAX);
    while (atomic_load(&pool.left) != joined) sched_yield();
}

static void take_pieces(size_t thread) {
    const Job *job = pool.job;
    const size_t piece = pool.piece, pieces = pool.pieces, shares = pool.shares;
    for (size_t i = 0; i < shares; i++) {
        const size_t share = (thread + i) % shares;
        for (size_t taken; (taken = atomic_fetch_add(&pool.share[share].taken, 1)) < pieces;) {
            const size_t number = share * pieces + taken, stop = (number + 1) * piece + job->lead,
                         first = number ? number * piece + job->lead : 0;
            if (first < job->count) job->work(job, first, stop < job->count ? stop : job->count);
        }
    }
}

/* Cut a job for the threads of the pool, and return its shares. */
static size_t cut(const Job *job) {
    const size_t threads = (size_t)(pool.allowed < pool.threads ? pool.allowed : pool.threads),
                 least = GRAIN / job->cost, even = job->count / (threads * PIECES);
    pool.piece = ((least > even ? least : even) / job->align + 1) * job->align;
    const size_t all = (job->count + pool.piece - 1) / pool.piece;
    pool.shares = all < threads ? all : threads;
    pool.pieces = (all + pool.shares - 1) / pool.shares;
    return pool.shares;
}

static void adopt_blas(void);

static void run(const Job *job) {
    const int is_large = job->count > job->align && job->count * job->cost >= 2 * GRAIN;
    if (!is_large || pthread_mutex_trylock(&pool.owner)) {
        job->work(job, 0, job->count);
        return;
    }
    if (!pool.allowed) {
        start_threads(pool.allowed = allowed_threads());
        if (pool.threads > 1) adopt_blas();
    }
    const uint32_t shares = (uint32_t)cut(job);
    if (shares > 1) {
        pool.job = job;
        for (uint32_t i = 0; i < shares; i++) atomic_store_explicit(&pool.share[i].taken, 0, memory_order_relaxed);
        open_door(take_pieces, shares - 1);
        take_pieces(0);
        close_door(shares - 1);
    } else {
        job->work(job, 0, job->count);
    }
    pthread_mutex_unlock(&pool.owner);
}
