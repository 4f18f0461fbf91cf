#pragma once
#include "ck_tile.h"

/* What softmax attention in float32 and in bfloat16 share. */

#define LOG2_E 1.44269504088896341f

/* Largest element of a row whose width is a multiple of 16. */
CK_INLINE float row_max(const float *row, size_t width) {
  vec top = *(const vec *)row;
  for (size_t j = LANES; j < width; j += LANES)
    top = __builtin_elementwise_max(top, *(const vec *)(row + j));
  return __builtin_reduce_max(top);
}

/* Sum of a row whose width is a multiple of 16. */
CK_INLINE float row_sum(const float *row, size_t width) {
  vec total = *(const vec *)row;
  for (size_t j = LANES; j < width; j += LANES) total += *(const vec *)(row + j);
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += total[lane];
  return sum;
}

/* First key column (a multiple of 16) and one past the last for queries i0 ..< i1. */
CK_INLINE void key_range(size_t i0, size_t i1, size_t keys, size_t left, size_t right, size_t *from,
                         size_t *to) {
  size_t low = left >= i0 ? 0 : i0 - left;
  size_t high = right >= keys || i1 + right > keys ? keys : i1 + right;
  *from = low / LANES * LANES;
  *to = high;
}

/* Columns of query i's row that it may see, relative to `from`. */
CK_INLINE void visible(size_t i, size_t keys, size_t left, size_t right, size_t from, size_t *lo,
                       size_t *hi) {
  *lo = (left >= i ? 0 : i - left);
  *lo = *lo < from ? 0 : *lo - from;
  *hi = (right >= keys || i + right + 1 > keys ? keys : i + right + 1) - from;
}
