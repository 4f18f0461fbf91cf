#include "ck_gemm.h"
#include "ck_gemm_tile.h"

/* Matrix products from packed blocks: rows of A stay in the second cache, a panel of B in the first,
   and while a panel is used the next one is fetched from memory. */

enum {
  DEPTH = 384,      /* of a block along the common axis */
  MOST_ROWS = 288,  /* of A in a block */
  MOST_DOT_ROWS = 4 /* of A up to which every element of B is used so rarely that packing costs more */
};

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
      for (size_t p = 0; p < depth; p++, x += a.row)
        for (size_t r = 0; r < rows; r++) out[p * rows + r] = x[r];
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

/* Fetches lines `from` to `to` of the part of memory that a panel will be packed from, `across` of
   them in a row. */
CK_INLINE void prefetch_panel(matrix b, size_t first, size_t column, size_t across, size_t from,
                              size_t to) {
  const float *x = b.is_transposed ? b.data + column * b.row + first
                                   : b.data + first * b.row + column;
  for (size_t line = from; line < to; line++)
    __builtin_prefetch(x + line / across * b.row + line % across * LANES, 0, 2);
}

/* The same where C has only `n` columns of the tile's width. */
CK_INLINE void narrow_tile(const float *a, const float *b, float *c, size_t ldc, size_t rows,
                           size_t n, size_t depth, int add, size_t width) {
  float whole[MAX_TILE_ROWS * 2 * LANES];
  gemm_tile(a, b, whole, width, rows, depth, 0, width);
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < n; j++)
      c[i * ldc + j] = whole[i * width + j] + (add ? c[i * ldc + j] : 0);
}

/* Tiles of at most `most` rows and `width` columns. */
CK_INLINE void blocked(matrix a, matrix b, float *c, size_t ldc, size_t m, size_t n, size_t k,
                       int add, size_t most, size_t width) {
  const size_t blocks = (m + MOST_ROWS - 1) / MOST_ROWS;
  const size_t height = ((m + blocks - 1) / blocks + most - 1) / most * most;
  const size_t deepest = smaller(k, DEPTH);
  float *panel = scratch(deepest * (height + width) + 8), *packed = panel + deepest * width;
  for (size_t from = 0; from < k; from += DEPTH) {
    const size_t depth = smaller(DEPTH, k - from);
    const int adds = add || from > 0;
    for (size_t first = 0; first < m; first += height) {
      const size_t left = smaller(height, m - first);
      const size_t tiles = left / most + 2;
      pack_rows(a, first, from, left, depth, most, packed);
      for (size_t j = 0; j < n; j += width) {
        const size_t columns = smaller(width, n - j);
        /* What the next panel is packed from: so many rows of so many cache lines. */
        const size_t across = (b.is_transposed ? depth : width) / LANES;
        const size_t down = b.is_transposed ? width : depth;
        const size_t lines = j + 2 * width <= n ? across * down : 0;
        pack_panel(b, from, j, columns, depth, width, panel);
        const float *at = packed;
        for (size_t i = 0, rows, count = 0; i < left; i += rows, at += rows * depth, count++) {
          rows = tile_height(left - i, most);
          prefetch_panel(b, from, j + width, across, lines * count / tiles,
                         lines * (count + 1) / tiles);
          float *target = c + (first + i) * ldc + j;
          if (columns == width) gemm_tile(at, panel, target, ldc, rows, depth, adds, width);
          else narrow_tile(at, panel, target, ldc, rows, columns, depth, adds, width);
        }
      }
    }
  }
}

/* Dot products of few rows of A with the rows of a transposed B. */
CK_INLINE void dots(const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc,
                    size_t m, size_t n, size_t k, int add) {
  for (size_t j = 0; j < n; j++)
    for (size_t i = 0; i < m; i++) {
      CK_REASSOCIATE
      const float *x = a + i * lda, *y = b + j * ldb;
      float sum = 0;
      for (size_t p = 0; p < k; p++) sum += x[p] * y[p];
      c[i * ldc + j] = sum + (add ? c[i * ldc + j] : 0);
    }
}

CK_CLONES void ck_gemm_f32(const float *a, size_t lda, int transpose_a, const float *b, size_t ldb,
                           int transpose_b, float *c, size_t ldc, size_t m, size_t n, size_t k,
                           int add) {
  if (m <= MOST_DOT_ROWS && !transpose_a && transpose_b)
    return dots(a, lda, b, ldb, c, ldc, m, n, k, add);
  if (m == 0 || n == 0) return;
  const matrix left = {a, lda, transpose_a}, right = {b, ldb, transpose_b};
  if (ck_tile_rows == MAX_TILE_ROWS)
    blocked(left, right, c, ldc, m, n, k, add, MAX_TILE_ROWS, 2 * LANES);
  else
    blocked(left, right, c, ldc, m, n, k, add, SMALL_ROWS, LANES);
}

int ck_gemm_is_fast(void) {
#if defined(__x86_64__) && !__has_feature(thread_sanitizer)
  return __builtin_cpu_supports("x86-64-v3") != 0;
#else
  return 0;
#endif
}
