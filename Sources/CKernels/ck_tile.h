#pragma once
#include "ck_internal.h"
#include <stdlib.h>

/* The micro-kernel of matrix products, C (+)= A B, and the packing of its operands.

   A tile of C stays in registers while the micro-kernel iterates over the inner dimension: 12 rows by two
   vectors where there are 32 vector registers, else 6 rows by one. Whatever tile an element of C belongs
   to, it is the same chain of multiply-adds. */

typedef float vec __attribute__((vector_size(64), aligned(4)));
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));

enum { LANES = 16, MAX_TILE_ROWS = 12, SMALL_TILE_ROWS = 6 };

/* Rows of the largest tile, 6 or 12; chosen when the program is loaded. */
extern size_t ck_tile_rows;

CK_INLINE size_t round_up(size_t n) { return (n + LANES - 1) / LANES * LANES; }
CK_INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

#define CK_UNROLL _Pragma("clang loop unroll(full)")

/* sum += a b for 16 lanes: of floats, or of pairs of bfloat16 that share a word, the first in its lower
   half. */
#define CK_MULTIPLY_ADD(sum, a, b) (sum) += (a) * (b)
#define CK_MULTIPLY_ADD_PAIRS(sum, a, b)                                                           \
  (sum) += (vec)((words){0} + ((a) << 16)) * (vec)((b) << 16) +                                    \
           (vec)((words){0} + ((a) & 0xffff0000)) * (vec)((b) & 0xffff0000)
/* The same with the dot products of AVX512-BF16; needs immintrin.h. */
#define CK_MULTIPLY_ADD_PAIRS_NATIVE(sum, a, b)                                                    \
  (sum) = (vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32((int)(a)), (__m512bh)(b))

/* Defines a micro-kernel: C (rows x 16 vecs) (+)= A (rows x depth) B (depth x 16 vecs), `rows` and `vecs`
   being constants. Element (i, p) of A is at a[i * ars + p * acs], and `group` rows of it share an address
   register; vector v of row p of B is at b[p * brow + v * bpanel]. */
#define CK_MICRO_KERNEL(NAME, ELEMENT, VECTOR, MULTIPLY_ADD)                                       \
  CK_INLINE void NAME(const int rows, const int vecs, const int group, const ELEMENT *a,           \
                      size_t ars, size_t acs, const ELEMENT *b, size_t brow, size_t bpanel,        \
                      float *c, size_t ldc, size_t depth, int add) {                               \
    vec sum[MAX_TILE_ROWS][2];                                                                     \
    VECTOR row[2];                                                                                 \
    const ELEMENT *at[MAX_TILE_ROWS];                                                              \
    CK_UNROLL for (int i = 0; i < rows; i += group) at[i / group] = a + (size_t)i * ars;           \
    CK_UNROLL for (int i = 0; i < rows; i++) {                                                     \
      CK_UNROLL for (int v = 0; v < vecs; v++) sum[i][v] =                                         \
          add ? *(const vec *)(c + (size_t)i * ldc + v * LANES) : (vec){0};                        \
    }                                                                                              \
    _Pragma("clang loop unroll_count(4)") for (size_t p = 0; p < depth; p++, b += brow) {          \
      CK_UNROLL for (int v = 0; v < vecs; v++) row[v] =                                            \
          *(const VECTOR *)(b + (size_t)v * bpanel);                                               \
      CK_UNROLL for (int i = 0; i < rows; i++) {                                                   \
        CK_UNROLL for (int v = 0; v < vecs; v++)                                                   \
            MULTIPLY_ADD(sum[i][v], at[i / group][(size_t)(i % group) * ars], row[v]);             \
      }                                                                                            \
      CK_UNROLL for (int i = 0; i < rows; i += group) {                                            \
        at[i / group] += acs;                                                                      \
        if (group < rows) /* keeps the addresses in registers of their own */                      \
          __asm__("" : "+r"(at[i / group]));                                                       \
      }                                                                                            \
    }                                                                                              \
    CK_UNROLL for (int i = 0; i < rows; i++) {                                                     \
      CK_UNROLL for (int v = 0; v < vecs; v++) *(vec *)(c + (size_t)i * ldc + v * LANES) =         \
          sum[i][v];                                                                               \
    }                                                                                              \
  }

CK_MICRO_KERNEL(micro_kernel, float, vec, CK_MULTIPLY_ADD)

/* The micro-kernel with both operands packed: A column by column (pack_rows), B row by row (pack_panel). */
CK_INLINE void packed_tile(const int rows, const int vecs, const float *a, const float *b, float *c,
                           size_t ldc, size_t depth, int add) {
  micro_kernel(rows, vecs, rows, a, 1, (size_t)rows, b, (size_t)vecs * LANES, LANES, c, ldc, depth,
               add);
}

/* TILE(rows) for every tile of m rows, from row i on; `rows` is a constant in each of them. */
#define CK_EACH_TILE(m, most, i, TILE)                                                             \
  {                                                                                                \
    size_t i = 0;                                                                                  \
    if ((most) == MAX_TILE_ROWS)                                                                   \
      for (; i + MAX_TILE_ROWS <= (m); i += MAX_TILE_ROWS) TILE(MAX_TILE_ROWS);                    \
    for (; i + SMALL_TILE_ROWS <= (m); i += SMALL_TILE_ROWS) TILE(SMALL_TILE_ROWS);                \
    switch ((m) - i) {                                                                             \
    case 5: TILE(5); break;                                                                        \
    case 4: TILE(4); break;                                                                        \
    case 3: TILE(3); break;                                                                        \
    case 2: TILE(2); break;                                                                        \
    case 1: TILE(1); break;                                                                        \
    }                                                                                              \
  }

/* A right operand in panels of 16 columns: element (p, j) at data[j / 16 * panel + p * row + j % 16]. Packed
   panels (row = 16) are read in one stream; a row-major matrix has panel = 16. */
typedef struct {
  const float *data;
  size_t row, panel;
} panels;

CK_INLINE panels row_major(const float *data, size_t row) { return (panels){data, row, LANES}; }

/* The panels from a column on, a multiple of 16, and from a row on. */
CK_INLINE panels panels_from(panels b, size_t row, size_t column) {
  b.data += column / LANES * b.panel + row * b.row;
  return b;
}

/* C (m x n) (+)= A (m x depth) B (depth x n), n a multiple of 16; A as the micro-kernel takes it. */
void ck_multiply_f32(const float *a, size_t ars, size_t acs, panels b, float *c, size_t ldc, size_t m,
                     size_t n, size_t depth, int add);

/* The same for pairs of bfloat16 along the inner dimension, `depth` pairs; with the dot products of
   AVX512-BF16 if `native`. */
void ck_multiply_pairs(const uint32_t *a, size_t ars, size_t acs, panels b, float *c, size_t ldc,
                       size_t m, size_t n, size_t depth, int add, int native);

/* The same with a row-major B. */
CK_INLINE void multiply(const float *a, size_t ars, size_t acs, const float *b, size_t ldb, float *c,
                        size_t ldc, size_t m, size_t n, size_t depth, int add) {
  ck_multiply_f32(a, ars, acs, row_major(b, ldb), c, ldc, m, n, depth, add);
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

/* Packed panels (depth n, width d) of a row-major matrix, columns beyond d zero. */
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

/* A matrix before packing. */
typedef struct {
  const float *data;
  size_t row;
  int is_transposed;
} matrix;

CK_INLINE matrix rows_of(const float *data, size_t row) { return (matrix){data, row, 0}; }
CK_INLINE matrix transposed(const float *data, size_t row) { return (matrix){data, row, 1}; }

/* Rows of the next tile when `left` are left and tiles have at most `most`. */
CK_INLINE size_t tile_height(size_t left, size_t most) {
  return left >= most ? most : left >= SMALL_TILE_ROWS ? SMALL_TILE_ROWS : left;
}

/* Transposes 8 columns of 8 rows of x into rows of `out`, `step` apart and written in their order; of x only
   `rows` rows exist, and the last is read in the place of the others. */
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

/* A block (m x depth) of the left operand, tile by tile, each column by column. */
CK_INLINE void pack_rows(matrix a, size_t first, size_t from, size_t m, size_t depth, size_t most,
                         float *out) {
  for (size_t i = 0, rows; i < m; i += rows, out += rows * depth) {
    rows = tile_height(m - i, most);
    if (a.is_transposed) {
      const float *x = a.data + from * a.row + first + i;
      for (size_t p = 0; p < depth; p++, x += a.row) {
        float *to = out + p * rows;
        if (rows == MAX_TILE_ROWS) memcpy(to, x, MAX_TILE_ROWS * sizeof *to);
        else if (rows == SMALL_TILE_ROWS) memcpy(to, x, SMALL_TILE_ROWS * sizeof *to);
        else
          for (size_t r = 0; r < rows; r++) to[r] = x[r];
      }
    } else {
      const float *x = a.data + (first + i) * a.row + from;
      size_t done = 0;
      /* Elements written past the end of a column are overwritten by the next columns. */
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

/* A panel (depth x width) of the right operand, of which `n` columns exist and the others are zero. */
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
