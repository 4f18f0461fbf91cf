#pragma once
#include <stdint.h>

/* Runs fn(context, index, count) for index 0..<count on the pool's threads and waits.
   The caller works too. Nested calls run serially on the calling thread. */
void ck_pool_run(int count, void (*fn)(void *context, int index, int count), void *context);

/* Number of threads that ck_pool_run uses (workers and the caller). */
int ck_pool_threads(void);

/* Sets that number, at least 1; call it before the first ck_pool_run or between two. */
void ck_pool_set_threads(int threads);

/* 1 in a build with AddressSanitizer, which does not detect accesses past the end of a pooled buffer or after
   its release. */
int ck_has_address_sanitizer(void);
