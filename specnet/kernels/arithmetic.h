/* The arithmetic, included once for float and once for double: REAL is the type, NAMED(f) appends its name to f,
   OF(f) is the function f of functions.h for it. Matrices are dense, of shape (rows, width). A WORK computes
   the units [first, stop) of a job. */

#define WORK(NAME) EVERY_PROCESSOR static void NAMED(NAME)(const Job *job, size_t first, size_t stop)

#include "elementwise.h"
#include "rows.h"
#include "norms.h"
#include "activations.h"
#include "dropout.h"
