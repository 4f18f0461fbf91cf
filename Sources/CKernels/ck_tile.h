#pragma once
#include "ck_internal.h"
#include <stdlib.h>

/* Products of small matrices inside a kernel, on rows padded to whole vectors. */

typedef float vec __attribute__((vector_size(64), aligned(4)));
enum { LANES = 16 };

CK_INLINE size_t round_up(size_t n) { return (n + LANES - 1) / LANES * LANES; }
CK_INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* C (rows x 16) (+)= A B; A[i][k] at a[i*ars + k*acs], B[k] 16 contiguous floats at b + k*ldb. */
#define TILE_BODY(ROWS)                                                                            \
  {                                                                                                \
    vec acc[ROWS];                                                                                 \
    for (int i = 0; i < ROWS; i++) acc[i] = add ? *(const vec *)(c + i * ldc) : (vec){0};          \
    for (size_t p = 0; p < depth; p++) {                                                           \
      vec bv = *(const vec *)(b + p * ldb);                                                        \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++) acc[i] +=                  \
          a[(size_t)i * ars + p * acs] * bv;                                                       \
    }                                                                                              \
    for (int i = 0; i < ROWS; i++) *(vec *)(c + i * ldc) = acc[i];                                 \
  }

/* C (m x n) (+)= A (m x depth) B (depth x n); n a multiple of 16. */
CK_INLINE void multiply(const float *a0, size_t ars, size_t acs, const float *b0, size_t ldb,
                        float *c0, size_t ldc, size_t m, size_t n, size_t depth, int add) {
  for (size_t i0 = 0; i0 < m; i0 += 6) {
    size_t rows = smaller(6, m - i0);
    for (size_t j = 0; j < n; j += LANES) {
      const float *a = a0 + i0 * ars, *b = b0 + j;
      float *c = c0 + i0 * ldc + j;
      if (rows == 6) TILE_BODY(6)
      else if (rows == 5) TILE_BODY(5)
      else if (rows == 4) TILE_BODY(4)
      else if (rows == 3) TILE_BODY(3)
      else if (rows == 2) TILE_BODY(2)
      else TILE_BODY(1)
    }
  }
}

/* Scratch memory of the calling thread, grown as needed and kept. */
static inline float *scratch(size_t count) {
  static _Thread_local float *buffer = NULL;
  static _Thread_local size_t size = 0;
  if (count > size) {
    free(buffer);
    buffer = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (!buffer) abort();
    size = count;
  }
  return buffer;
}

/* out (n, padded): rows copied, columns beyond d zero. */
CK_INLINE void pack(const float *x, size_t stride, float *out, size_t n, size_t d, size_t padded) {
  for (size_t i = 0; i < n; i++) {
    for (size_t c = 0; c < d; c++) out[i * padded + c] = x[i * stride + c];
    for (size_t c = d; c < padded; c++) out[i * padded + c] = 0;
  }
}

/* out (d, padded): transposed copy, columns beyond n zero. */
CK_INLINE void pack_transposed(const float *x, size_t stride, float *out, size_t n, size_t d,
                               size_t padded) {
  for (size_t c = 0; c < d; c++) {
    for (size_t i = 0; i < n; i++) out[c * padded + i] = x[i * stride + c];
    for (size_t i = n; i < padded; i++) out[c * padded + i] = 0;
  }
}
