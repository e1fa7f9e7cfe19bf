/* The arithmetic, included once for float and once for double: REAL is the type, NAMED(f) appends its name to f,
   OF(f) is the function f of functions.h for it. Matrices are dense, of shape (rows, width). A WORK computes
   the units [first, stop) of a job. */

#define WORK(NAME) EVERY_PROCESSOR static void NAMED(NAME)(const Job *job, size_t first, size_t stop)

#include "elementwise.h"
#include "rows.h"
#include "norms.h"
#include "activations.h"
#include "dropout.h"
#include "pools.h"

#ifdef X86
#define VECTOR 64
#define TILE_ROWS 8
#define TILE_VECTORS 2
#define TARGET __attribute__((target("avx512f")))
#define TILED(function) NAMED(function##_avx512)
#include "tiles.h"
#undef VECTOR
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TARGET
#undef TILED
#define VECTOR 32
#define TILE_ROWS 14
#define TILE_VECTORS 1
#define TARGET __attribute__((target("avx512f,avx512vl")))
#define TILED(function) NAMED(function##_narrow)
#include "tiles.h"
#undef VECTOR
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TARGET
#undef TILED
#define VECTOR 32
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define TARGET __attribute__((target("avx2,fma")))
#define TILED(function) NAMED(function##_avx2)
#include "tiles.h"
#undef VECTOR
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TARGET
#undef TILED
#endif
#define VECTOR 16
#define TILE_ROWS ANY_ROWS
#define TILE_VECTORS 2
#define TARGET
#define TILED(function) NAMED(function##_any)
#include "tiles.h"
#undef VECTOR
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TARGET
#undef TILED
#include "convolution.h"
#include "products.h"
#include "recurrent.h"
#include "attention.h"
