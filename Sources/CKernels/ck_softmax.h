#pragma once
#include "ck_attention.h"
#include "ck_tile.h"

/* What softmax attention kernels share: scores and weights are kept transposed, keys x 16 queries, so that the
   maximum and the sum of a query stay in one lane. */

enum { DEPTH = 256 /* keys whose weights for 16 queries fit the first-level cache */ };
#define LN_2 0.69314718055994531f

typedef int32_t bits __attribute__((vector_size(64), aligned(4)));

/* A vector's lanes from x where the mask's are set, from y elsewhere. */
#define SELECT(mask, x, y) ((vec)(((mask) & (bits)(x)) | (~(mask) & (bits)(y))))
#define LARGER(x, y) SELECT((x) > (y), x, y)

/* Keys from ..< to that any of the queries i0 ..< i1 attends to; `from` is a multiple of `step`. */
CK_INLINE void key_range(const ck_attention_shape *h, size_t i0, size_t i1, size_t step, size_t *from,
                         size_t *to) {
  *from = h->left >= i0 ? 0 : (i0 - h->left) / step * step;
  *to = h->right >= h->keys || i1 + h->right > h->keys ? h->keys : i1 + h->right;
}

/* C (m x 16) = A B with rows of B and of C `ldb` and `ldc` apart; the packed tiles of A are `length` deep and
   count from column `first` on. */
CK_INLINE void multiply_packed(const float *a, size_t length, size_t first, const float *b, size_t ldb,
                               float *c, size_t ldc, size_t m, size_t depth) {
#define TILE(ROWS)                                                                                 \
  micro_kernel(ROWS, 1, ROWS, a + i * length + (first + p) * ROWS, 1, ROWS, b + p * ldb, ldb,      \
               LANES, c + i * ldc, ldc, smaller(DEPTH, depth - p), p > 0)
  for (size_t p = 0; p < depth; p += DEPTH) CK_EACH_TILE(m, ck_tile_rows, i, TILE)
#undef TILE
}

/* 2 to the power of every lane to 1e-7 relative, up to 126; stays at 2^-125 below that. */
CK_INLINE void raise_2(vec *power) {
  const vec least = (vec){0} - 125.0f, x = LARGER(least, *power);
  vec shifted = x + 12582912.0f; /* 1.5 * 2^23: rounds to nearest */
  vec r = x - (shifted - 12582912.0f);
  vec p = (vec){0} + 1.3276471960e-3f;
  p = p * r + 9.6755415026e-3f;
  p = p * r + 5.5507132751e-2f;
  p = p * r + 2.4022119721e-1f;
  p = p * r + 6.9314696706e-1f;
  p = p * r + 1.0f;
  *power = (vec)((bits)p + ((bits)shifted << 23));
}

/* Transposes x (d x 16) times `factor`, one for each column, into `n` rows of `out`. */
CK_INLINE void store_turned(float *x, const vec *factor, float *out, size_t stride, size_t n,
                            size_t d) {
  for (size_t c = 0; c < d; c++) *(vec *)(x + c * LANES) *= *factor;
  size_t done = 0;
  if (n == LANES)
    for (; done + 8 <= d; done += 8)
      for (size_t i = 0; i < LANES; i += 8)
        transpose_8(x + done * LANES + i, LANES, 8, out + i * stride + done, stride);
  for (size_t i = 0; i < n; i++)
    for (size_t c = done; c < d; c++) out[i * stride + c] = x[c * LANES + i];
}
