#pragma once
#include "ck_internal.h"
#include <stdlib.h>

/* Products of small matrices inside a kernel, on rows padded to whole vectors. */

typedef float vec __attribute__((vector_size(64), aligned(4)));
enum { LANES = 16 };

CK_INLINE size_t round_up(size_t n) { return (n + LANES - 1) / LANES * LANES; }
CK_INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Rows of C that one tile computes, 6 or 12: as many as the registers hold. */
enum { MAX_TILE_ROWS = 12 };
extern size_t ck_tile_rows;

/* A matrix of 16-column panels: element (p, j) at data[j / 16 * panel + p * row + j % 16]. Packed
   panels (row = 16) are read in one stream; an ordinary row-major matrix has panel = 16. */
typedef struct {
  const float *data;
  size_t row, panel;
} panels;

CK_INLINE panels row_major(const float *data, size_t row) { return (panels){data, row, LANES}; }

/* C (rows x 16) (+)= A B; A[i][k] at a[i * ars + k * acs]; three rows share an address register. */
#define TILE_BODY(ROWS)                                                                            \
  {                                                                                                \
    vec acc[ROWS];                                                                                 \
    const float *at[(ROWS + 2) / 3];                                                               \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < (ROWS + 2) / 3; i++) at[i] =            \
        a + (size_t)(3 * i) * ars;                                                                 \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++) acc[i] =                     \
        add ? *(const vec *)(c + (size_t)i * ldc) : (vec){0};                                      \
    for (size_t p = 0; p < depth; p++, b += brow) {                                                \
      vec bv = *(const vec *)b;                                                                    \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++) acc[i] +=                  \
          at[i / 3][(size_t)(i % 3) * ars] * bv;                                                   \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < (ROWS + 2) / 3; i++) {                \
        at[i] += acs;                                                                              \
        __asm__("" : "+r"(at[i])); /* keeps the addresses in registers of their own */             \
      }                                                                                            \
    }                                                                                              \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                              \
        *(vec *)(c + (size_t)i * ldc) = acc[i];                                                    \
  }

/* C (m x n) (+)= A (m x depth) B (depth x n); n a multiple of 16. */
CK_INLINE void multiply_panels(const float *a0, size_t ars, size_t acs, panels b0, float *c0,
                               size_t ldc, size_t m, size_t n, size_t depth, int add) {
  const size_t brow = b0.row, step = ck_tile_rows;
  for (size_t i0 = 0; i0 < m;) {
    const size_t left = m - i0, rows = left < 6 ? left : left >= step ? step : 6;
    for (size_t j = 0; j < n; j += LANES) {
      const float *a = a0 + i0 * ars, *b = b0.data + j / LANES * b0.panel;
      float *c = c0 + i0 * ldc + j;
      if (rows == 12) TILE_BODY(12)
      else if (rows == 6) TILE_BODY(6)
      else if (rows == 5) TILE_BODY(5)
      else if (rows == 4) TILE_BODY(4)
      else if (rows == 3) TILE_BODY(3)
      else if (rows == 2) TILE_BODY(2)
      else TILE_BODY(1)
    }
    i0 += rows;
  }
}

/* The same with a row-major B. */
CK_INLINE void multiply(const float *a, size_t ars, size_t acs, const float *b, size_t ldb, float *c,
                        size_t ldc, size_t m, size_t n, size_t depth, int add) {
  multiply_panels(a, ars, acs, row_major(b, ldb), c, ldc, m, n, depth, add);
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

/* Packed panels (depth n, width d) of a row-major matrix, columns beyond d zero; returns its
   view. */
CK_INLINE panels pack_panels(const float *x, size_t stride, float *out, size_t n, size_t d) {
  for (size_t j = 0; j < d; j += LANES) {
    float *panel = out + j * n;
    size_t width = smaller(LANES, d - j);
    if (width == LANES)
      for (size_t i = 0; i < n; i++)
        *(vec *)(panel + i * LANES) = *(const vec *)(x + i * stride + j);
    else
      for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < width; c++) panel[i * LANES + c] = x[i * stride + j + c];
        for (size_t c = width; c < LANES; c++) panel[i * LANES + c] = 0;
      }
  }
  return (panels){out, LANES, n * LANES};
}

/* The panels from column `from` on, a multiple of 16. */
CK_INLINE panels from_column(panels b, size_t from) {
  b.data += from / LANES * b.panel;
  return b;
}
