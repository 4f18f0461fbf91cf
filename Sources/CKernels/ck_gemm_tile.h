#pragma once
#include "ck_tile.h"

/* The innermost part of matrix products from packed operands: A column by column of a tile's rows, B row
   by row of a tile's columns. */

/* Rows of a tile where the registers hold no more. */
enum { SMALL_ROWS = 6 };

/* C (ROWS x 16 VECS) (+)= A B, both packed. */
#define GEMM_TILE(ROWS, VECS)                                                                      \
  {                                                                                                \
    vec sum[ROWS][VECS];                                                                           \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                              \
        _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) sum[i][v] =              \
            add ? *(const vec *)(c + (size_t)i * ldc + v * LANES) : (vec){0};                      \
    const float *x = a, *y = b;                                                                    \
    _Pragma("clang loop unroll_count(4)") for (size_t p = 0; p < depth;                            \
                                               p++, x += ROWS, y += VECS * LANES) {                \
      vec row[VECS];                                                                               \
      _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) row[v] =                   \
          *(const vec *)(y + v * LANES);                                                           \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                            \
          _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) sum[i][v] +=           \
              x[i] * row[v];                                                                       \
    }                                                                                              \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                              \
        _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) *(                       \
            vec *)(c + (size_t)i * ldc + v * LANES) = sum[i][v];                                   \
  }

#define GEMM_TILES(VECS)                                                                           \
  if (rows == 12) GEMM_TILE(12, VECS)                                                              \
  else if (rows == 6) GEMM_TILE(6, VECS)                                                           \
  else if (rows == 5) GEMM_TILE(5, VECS)                                                           \
  else if (rows == 4) GEMM_TILE(4, VECS)                                                           \
  else if (rows == 3) GEMM_TILE(3, VECS)                                                           \
  else if (rows == 2) GEMM_TILE(2, VECS)                                                           \
  else GEMM_TILE(1, VECS)

CK_INLINE void gemm_tile(const float *a, const float *b, float *c, size_t ldc, size_t rows, size_t depth,
                    int add, size_t width) {
  if (width == LANES) {
    GEMM_TILES(1)
  } else {
    GEMM_TILES(2)
  }
}
