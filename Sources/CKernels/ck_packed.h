#pragma once
#include "ck_tile.h"

/* Products of matrices packed in the order in which their tiles are read: rows of A that make a
   tile lie column by column, panels of B row by row. */

enum { SMALL_ROWS = 6 }; /* of a tile where the registers hold no more */

typedef struct {
  const float *data;
  size_t row;
  int is_transposed;
} matrix;

/* Rows of the next tile when `left` are left and tiles have at most `most`. */
CK_INLINE size_t tile_height(size_t left, size_t most) {
  return left >= most ? most : left >= SMALL_ROWS ? SMALL_ROWS : left;
}

/* 8 columns of 8 rows of x, the last of which counts for all from `rows` on, as rows of `out`, which
   are `step` apart and written in their order. */
CK_INLINE void transpose_8(const float *x, size_t row, size_t rows, float *out, size_t step) {
  typedef float half __attribute__((vector_size(32), aligned(4)));
  half r[8], t[8];
  for (size_t i = 0; i < 8; i++) r[i] = *(const half *)(x + smaller(i, rows - 1) * row);
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[i + 1] = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    r[i + 2] = __builtin_shufflevector(t[i + 1], t[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    r[i + 3] = __builtin_shufflevector(t[i + 1], t[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    t[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (size_t i = 0; i < 8; i++) *(half *)(out + i * step) = t[i];
}

/* A block (m x depth) of op(A), tile by tile; of each the columns one after the other. */
CK_INLINE void pack_rows(matrix a, size_t first, size_t from, size_t m, size_t depth, size_t most,
                         float *out) {
  for (size_t i = 0, rows; i < m; i += rows, out += rows * depth) {
    rows = tile_height(m - i, most);
    if (a.is_transposed) {
      const float *x = a.data + from * a.row + first + i;
      for (size_t p = 0; p < depth; p++, x += a.row) {
        float *to = out + p * rows;
        if (rows == MAX_TILE_ROWS) memcpy(to, x, MAX_TILE_ROWS * sizeof *to);
        else if (rows == SMALL_ROWS) memcpy(to, x, SMALL_ROWS * sizeof *to);
        else
          for (size_t r = 0; r < rows; r++) to[r] = x[r];
      }
    } else {
      const float *x = a.data + (first + i) * a.row + from;
      size_t done = 0;
      /* What is written beyond a column's end is overwritten by the columns behind it. */
      if (rows == most)
        for (; done + 8 <= depth; done += 8) {
          float *to = out + done * rows;
          if (rows > 8) transpose_8(x + 8 * a.row + done, a.row, rows - 8, to + 8, rows);
          transpose_8(x + done, a.row, smaller(rows, 8), to, rows);
        }
      for (size_t p = done; p < depth; p++)
        for (size_t r = 0; r < rows; r++) out[p * rows + r] = x[r * a.row + p];
    }
  }
}

/* A panel (depth x width) of op(B), of which `n` columns are there and the others zero. */
CK_INLINE void pack_panel(matrix b, size_t from, size_t column, size_t n, size_t depth, size_t width,
                          float *out) {
  if (!b.is_transposed) {
    const float *x = b.data + from * b.row + column;
    for (size_t p = 0; p < depth; p++, x += b.row, out += width) {
      if (n == width) {
        for (size_t c = 0; c < width; c += LANES) *(vec *)(out + c) = *(const vec *)(x + c);
      } else {
        for (size_t c = 0; c < n; c++) out[c] = x[c];
        for (size_t c = n; c < width; c++) out[c] = 0;
      }
    }
    return;
  }
  const float *x = b.data + column * b.row + from;
  size_t done = 0;
  if (n == width)
    for (; done + 8 <= depth; done += 8)
      for (size_t c = 0; c < width; c += 8)
        transpose_8(x + c * b.row + done, b.row, 8, out + done * width + c, width);
  for (size_t p = done; p < depth; p++) {
    for (size_t c = 0; c < n; c++) out[p * width + c] = x[c * b.row + p];
    for (size_t c = n; c < width; c++) out[p * width + c] = 0;
  }
}

#define CK_UNROLL _Pragma("clang loop unroll(full)")

/* C (rows x 16 vecs) (+)= A B, both packed; `rows` and `vecs` are constants. */
CK_INLINE void packed_tile(const int rows, const int vecs, const float *a, const float *b,
                           float *c, size_t ldc, size_t depth, int add) {
  vec sum[MAX_TILE_ROWS][2], row[2];
  CK_UNROLL for (int i = 0; i < rows; i++) {
    CK_UNROLL for (int v = 0; v < vecs; v++) sum[i][v] =
        add ? *(const vec *)(c + (size_t)i * ldc + v * LANES) : (vec){0};
  }
  _Pragma("clang loop unroll_count(4)") for (size_t p = 0; p < depth; p++) {
    CK_UNROLL for (int v = 0; v < vecs; v++) row[v] = *(const vec *)(b + v * LANES);
    CK_UNROLL for (int i = 0; i < rows; i++) {
      CK_UNROLL for (int v = 0; v < vecs; v++) sum[i][v] += a[i] * row[v];
    }
    a += rows, b += vecs * LANES;
  }
  CK_UNROLL for (int i = 0; i < rows; i++) {
    CK_UNROLL for (int v = 0; v < vecs; v++) *(vec *)(c + (size_t)i * ldc + v * LANES) = sum[i][v];
  }
}

/* TILE(rows) for every tile of m rows, from row i on; `rows` is a constant in each of them. */
#define CK_EACH_TILE(m, most, i, TILE)                                                             \
  {                                                                                                \
    size_t i = 0;                                                                                  \
    if ((most) == MAX_TILE_ROWS)                                                                   \
      for (; i + MAX_TILE_ROWS <= (m); i += MAX_TILE_ROWS) TILE(MAX_TILE_ROWS);                    \
    for (; i + SMALL_ROWS <= (m); i += SMALL_ROWS) TILE(SMALL_ROWS);                               \
    switch ((m) - i) {                                                                             \
    case 5: TILE(5); break;                                                                        \
    case 4: TILE(4); break;                                                                        \
    case 3: TILE(3); break;                                                                        \
    case 2: TILE(2); break;                                                                        \
    case 1: TILE(1); break;                                                                        \
    }                                                                                              \
  }
