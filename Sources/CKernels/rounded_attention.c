#include "ck_rounded_attention.h"
#include "ck_packed.h"

#define LOG2_E 1.44269504088896341f

enum { QUERIES = 24, GRADIENT_QUERIES = 64 };

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

/* A bfloat16 that is read as one of a pair. */
typedef uint16_t half __attribute__((may_alias));

/* Pairs of bfloat16. */
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));

/* 16-column panels of pairs: pair p of column j at data[j / 16 * panel + p * 16 + j % 16]. */
typedef struct {
  const uint32_t *data;
  size_t panel;
} pair_panels;

CK_INLINE pair_panels panels_from_column(pair_panels b, size_t column) {
  b.data += column / LANES * b.panel;
  return b;
}

CK_INLINE pair_panels panels_from_pair(pair_panels b, size_t pair) {
  b.data += pair * LANES;
  return b;
}

/* The columns of the panels are rows of x (n, pairs), those beyond n zero. */
CK_INLINE pair_panels pack_words_transposed(const uint32_t *x, size_t stride, uint32_t *out,
                                            size_t n, size_t pairs) {
  for (size_t j = 0; j < n; j += LANES)
    pack_panel((matrix){(const float *)x, stride, 1}, 0, j, smaller(LANES, n - j), pairs, LANES,
               (float *)out + j * pairs);
  return (pair_panels){out, pairs * LANES};
}

/* The pairs of the panels are neighbouring rows of x (n, d), columns beyond d and a row after an odd
   number of them zero. */
CK_INLINE pair_panels pack_row_pairs(const half *x, size_t stride, uint32_t *out, size_t n,
                                     size_t d) {
  const size_t pairs = (n + 1) / 2;
  for (size_t j = 0; j < d; j += LANES) {
    uint32_t *to = out + j * pairs;
    const size_t width = smaller(LANES, d - j);
    for (size_t p = 0; p < pairs; p++, to += LANES) {
      const half *first = x + 2 * p * stride + j, *second = first + stride;
      if (width == LANES && 2 * p + 1 < n) {
        for (size_t c = 0; c < LANES; c++) to[c] = first[c] | (uint32_t)second[c] << 16;
      } else {
        for (size_t c = 0; c < width; c++)
          to[c] = first[c] | (2 * p + 1 < n ? (uint32_t)second[c] << 16 : 0);
        for (size_t c = width; c < LANES; c++) to[c] = 0;
      }
    }
  }
  return (pair_panels){out, pairs * LANES};
}

CK_INLINE void round_row(const float *x, half *y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = (half)ck_bfloat16_bits(x[i]);
}

/* Neighbouring rows of x (rows, width) as words, zero after an odd number of rows. */
CK_INLINE void round_row_pairs(const float *x, size_t width, uint32_t *y, size_t rows) {
  for (size_t r = 0; r < rows; r += 2, x += 2 * width, y += width)
    if (r + 1 < rows)
      for (size_t j = 0; j < width; j++)
        y[j] = ck_bfloat16_bits(x[j]) | ck_bfloat16_bits(x[width + j]) << 16;
    else
      for (size_t j = 0; j < width; j++) y[j] = ck_bfloat16_bits(x[j]);
}

#define PAIRS(name) name##_emulated
#define PAIRS_ENTRY CK_CLONES static
#include "ck_pairs.h"
#undef PAIRS
#undef PAIRS_ENTRY

#if defined(__x86_64__)
#include <immintrin.h>

#define PAIRS_NATIVE
#define PAIRS(name) name##_native
#define PAIRS_ENTRY static
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4,avx512bf16"))),                 \
                             apply_to = function)
#include "ck_pairs.h"
#pragma clang attribute pop
#endif

void ck_attention_forward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                               uint16_t *out, float *lse, const ck_rounded_attention_shape *shape,
                               int native) {
#if defined(__x86_64__)
  if (native) return ck_attention_forward_native(q, k, v, out, lse, shape);
#endif
  (void)native;
  ck_attention_forward_emulated(q, k, v, out, lse, shape);
}

void ck_attention_backward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                const uint16_t *out, const float *dout, const float *lse, float *dq,
                                float *dk, float *dv, const ck_rounded_attention_shape *shape,
                                int native) {
#if defined(__x86_64__)
  if (native)
    return ck_attention_backward_native(q, k, v, out, dout, lse, dq, dk, dv, shape);
#endif
  (void)native;
  ck_attention_backward_emulated(q, k, v, out, dout, lse, dq, dk, dv, shape);
}
