#define _GNU_SOURCE
#include "ck_pool.h"
#include "ck_internal.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* One job at a time. `ticket` packs generation (32 bits), count (16) and next index (16), so that a worker that
   wakes late cannot take an index of a later job. */

enum { MAX_THREADS = 256, MAX_COUNT = 65535, SPINS = 3000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static _Atomic uint64_t ticket = 0;
static _Atomic int remaining = 0;
static _Atomic int sleepers = 0;
static void (*task_fn)(void *, int, int);
static void *task_context;
static _Atomic int wanted = 0;
static int started = 0;
static _Thread_local int inside = 0;

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/* Processes indices of the job `generation` until none is left. */
static void drain(uint32_t generation) {
  for (;;) {
    uint64_t seen = atomic_load_explicit(&ticket, memory_order_acquire);
    for (;;) {
      uint32_t count = (seen >> 16) & 0xffff, index = seen & 0xffff;
      if ((uint32_t)(seen >> 32) != generation || index >= count) return;
      if (atomic_compare_exchange_weak_explicit(&ticket, &seen, seen + 1, memory_order_acq_rel,
                                                memory_order_acquire)) {
        task_fn(task_context, (int)index, (int)count);
        atomic_fetch_sub_explicit(&remaining, 1, memory_order_acq_rel);
        break;
      }
    }
  }
}

static uint32_t current_generation(void) {
  return (uint32_t)(atomic_load_explicit(&ticket, memory_order_acquire) >> 32);
}

static void *worker(void *argument) {
  uint32_t seen = (uint32_t)(uintptr_t)argument;
  inside = 1;
  for (;;) {
    int spins = 0;
    while (current_generation() == seen) {
      if (++spins < SPINS) {
        relax();
        continue;
      }
      pthread_mutex_lock(&lock);
      atomic_fetch_add(&sleepers, 1);
      while (current_generation() == seen) pthread_cond_wait(&wake, &lock);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&lock);
    }
    seen = current_generation();
    drain(seen);
  }
  return NULL;
}

int ck_pool_threads(void) {
  /* Several threads may compute the value at the same time, with the same result. */
  if (wanted == 0) {
    const char *setting = getenv("ESPALIER_THREADS");
    int value = setting ? atoi(setting) : 0;
    if (value <= 0) {
      cpu_set_t set;
      value = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                          : (int)sysconf(_SC_NPROCESSORS_ONLN);
    }
    if (value < 1) value = 1;
    wanted = value > MAX_THREADS ? MAX_THREADS : value;
  }
  return wanted;
}

void ck_pool_set_threads(int threads) {
  wanted = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
}

int ck_has_address_sanitizer(void) { return __has_feature(address_sanitizer); }

static pthread_mutex_t caller = PTHREAD_MUTEX_INITIALIZER;

void ck_pool_run(int count, void (*fn)(void *, int, int), void *context) {
  if (count <= 0) return;
  int threads = ck_pool_threads();
  if (inside || count == 1 || threads == 1 || count > MAX_COUNT ||
      pthread_mutex_trylock(&caller) != 0) {
    for (int i = 0; i < count; i++) fn(context, i, count);
    return;
  }
  inside = 1;
  uint32_t generation = current_generation();
  while (started < threads - 1) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 8 << 20);
    int failed = pthread_create(&thread, &attributes, worker, (void *)(uintptr_t)generation);
    pthread_attr_destroy(&attributes);
    if (failed) break;
    started++;
  }
  task_fn = fn;
  task_context = context;
  atomic_store(&remaining, count);
  generation++;
  atomic_store_explicit(&ticket, ((uint64_t)generation << 32) | ((uint64_t)count << 16),
                        memory_order_seq_cst);
  if (atomic_load(&sleepers) > 0) {
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
  }
  drain(generation);
  int spins = 0;
  while (atomic_load_explicit(&remaining, memory_order_acquire) > 0) {
    if (++spins < SPINS)
      relax();
    else
      sched_yield();
  }
  inside = 0;
  pthread_mutex_unlock(&caller);
}
