#include "ck_gemm.h"
#include "ck_tile.h"

/* Matrix products of packed blocks: a block of A stays in the second-level cache, a panel of B in the first, and
   the next panel is prefetched meanwhile. */

enum {
  DEPTH = 384,    /* of a block along the inner dimension */
  MOST_ROWS = 288 /* of A in a block */
};

/* Cache lines to prefetch, `across` of them in each row of a matrix. */
typedef struct {
  const float *row;
  size_t stride, across, column, left;
} lines;

/* The lines from which the panel from `column` on is packed; none if the panel is narrow. */
CK_INLINE lines panel_lines(matrix b, size_t from, size_t column, size_t n, size_t depth,
                            size_t width) {
  const size_t down = b.is_transposed ? width : depth;
  lines l = {b.data, b.row, (b.is_transposed ? depth : width) / LANES, 0, 0};
  if (column + width > n) return l;
  l.row += b.is_transposed ? column * b.row + from : from * b.row + column;
  l.left = l.across * down;
  return l;
}

/* Prefetches the next `count` lines. */
CK_INLINE void prefetch(lines *l, size_t count) {
  for (count = smaller(count, l->left), l->left -= count; count > 0; count--) {
    __builtin_prefetch(l->row + l->column * LANES, 0, 2);
    if (++l->column == l->across) l->column = 0, l->row += l->stride;
  }
}

/* `packed_tile` where only `n` columns of the tile's width exist in C. */
CK_INLINE void narrow_tile(const int rows, const int vecs, const float *a, const float *b, float *c,
                           size_t ldc, size_t n, size_t depth, int add) {
  float whole[MAX_TILE_ROWS * 2 * LANES] = {0};
  const size_t width = (size_t)vecs * LANES;
  for (size_t i = 0; add && i < (size_t)rows; i++) memcpy(whole + i * width, c + i * ldc, n * sizeof *c);
  packed_tile(rows, vecs, a, b, whole, width, depth, add);
  for (size_t i = 0; i < (size_t)rows; i++) memcpy(c + i * ldc, whole + i * width, n * sizeof *c);
}

/* Tiles of at most `most` rows and 16 `vecs` columns. */
CK_INLINE void blocked(matrix a, matrix b, float *c, size_t ldc, size_t m, size_t n, size_t k,
                       int add, const size_t most, const int vecs) {
  const size_t width = (size_t)vecs * LANES;
  const size_t blocks = (m + MOST_ROWS - 1) / MOST_ROWS;
  const size_t height = ((m + blocks - 1) / blocks + most - 1) / most * most;
  const size_t deepest = smaller(k, DEPTH);
  float *panel = scratch(deepest * (height + width) + 8), *packed = panel + deepest * width;
  for (size_t from = 0; from < k; from += DEPTH) {
    const size_t depth = smaller(DEPTH, k - from);
    const int adds = add || from > 0;
    for (size_t first = 0; first < m; first += height) {
      const size_t left = smaller(height, m - first);
      const size_t tiles = left / most + 1;
      pack_rows(a, first, from, left, depth, most, packed);
      for (size_t j = 0; j < n; j += width) {
        const size_t columns = smaller(width, n - j);
        lines next = panel_lines(b, from, j + width, n, depth, width);
        const size_t share = next.left / tiles + 1;
        pack_panel(b, from, j, columns, depth, width, panel);
        float *target = c + first * ldc + j;
#define WHOLE(ROWS)                                                                                \
  prefetch(&next, share), packed_tile(ROWS, vecs, packed + i * depth, panel, target + i * ldc,     \
                                      ldc, depth, adds)
#define NARROW(ROWS)                                                                               \
  narrow_tile(ROWS, vecs, packed + i * depth, panel, target + i * ldc, ldc, columns, depth, adds)
        if (columns == width) CK_EACH_TILE(left, most, i, WHOLE)
        else CK_EACH_TILE(left, most, i, NARROW)
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
  if (m <= CK_GEMM_MOST_DOT_ROWS && !transpose_a && transpose_b)
    return dots(a, lda, b, ldb, c, ldc, m, n, k, add);
  if (m == 0 || n == 0) return;
  const matrix left = {a, lda, transpose_a}, right = {b, ldb, transpose_b};
  if (ck_tile_rows == MAX_TILE_ROWS)
    blocked(left, right, c, ldc, m, n, k, add, MAX_TILE_ROWS, 2);
  else
    blocked(left, right, c, ldc, m, n, k, add, SMALL_TILE_ROWS, 1);
}

int ck_gemm_is_fast(void) {
#if defined(__x86_64__) && !__has_feature(thread_sanitizer)
  return __builtin_cpu_supports("x86-64-v3") != 0;
#else
  return 0;
#endif
}
