#include "ck_int8.h"
#include "ck_bfloat16.h"
#include "ck_internal.h"

/* Scale of a row whose largest magnitude is `top`, and the nearest integer of x / scale in the lowest bits. */
CK_INLINE float scale_of(float top) { return top > 0 && top < INFINITY ? top / 127 : 1; }
CK_INLINE int32_t nearest(float x, float inverse) {
  float shifted = x * inverse + 12582912.0f; /* 1.5 * 2^23: rounds to nearest */
  int32_t word;
  memcpy(&word, &shifted, 4);
  return word - 0x4b400000;
}

#define QUANTIZE(TYPE, VALUE)                                                                      \
  {                                                                                                \
    const TYPE *in = (const TYPE *)x + r * k;                                                      \
    float top = 0;                                                                                 \
    for (size_t i = 0; i < k; i++) {                                                               \
      const float a = __builtin_fabsf(VALUE(in[i]));                                               \
      top = a > top ? a : top;                                                                     \
    }                                                                                              \
    scale[r] = scale_of(top);                                                                      \
    const float inverse = 1 / scale[r];                                                            \
    for (size_t i = 0; i < k; i++) {                                                               \
      const int32_t value = nearest(VALUE(in[i]), inverse);                                        \
      q[r * k + i] = (uint8_t)(value + shift);                                                     \
      total += value;                                                                              \
    }                                                                                              \
  }
#define SAME(x) (x)

CK_CLONES void ck_int8_quantize(const void *x, int is_bfloat16, uint8_t *restrict q, int shift,
                                float *restrict scale, float *restrict sum, size_t rows, size_t k) {
  for (size_t r = 0; r < rows; r++) {
    int32_t total = 0;
    if (is_bfloat16) QUANTIZE(uint16_t, ck_from_bfloat16)
    else QUANTIZE(float, SAME)
    if (sum) sum[r] = (float)total;
  }
}

CK_CLONES void ck_int8_round_f32(const float *restrict x, float *restrict y, size_t rows, size_t k) {
  for (size_t r = 0; r < rows; r++, x += k, y += k) {
    float top = 0;
    for (size_t i = 0; i < k; i++) {
      const float a = __builtin_fabsf(x[i]);
      top = a > top ? a : top;
    }
    const float scale = scale_of(top), inverse = 1 / scale;
    for (size_t i = 0; i < k; i++) y[i] = scale * (float)nearest(x[i], inverse);
  }
}

CK_CLONES void ck_int8_store(const float *restrict product, const float *restrict row,
                             const float *restrict column, const float *restrict sum,
                             const float *restrict bias, void *y, size_t ldy, int is_bfloat16,
                             int gelu, int add, size_t rows, size_t n) {
#define VALUE(j) ((product[j] - 128 * sum[j]) * (row[r] * column[j]) + (bias ? bias[j] : 0))
  for (size_t r = 0; r < rows; r++, product += n) {
    if (is_bfloat16) {
      uint16_t *restrict to = (uint16_t *)y + r * ldy;
      for (size_t j = 0; j < n; j++) to[j] = (uint16_t)ck_bfloat16_bits(VALUE(j));
      if (gelu) ck_gelu_forward_bf16(to, to, n);
    } else {
      float *restrict to = (float *)y + r * ldy;
      if (add)
        for (size_t j = 0; j < n; j++) to[j] += VALUE(j);
      else
        for (size_t j = 0; j < n; j++) to[j] = VALUE(j);
    }
  }
}
