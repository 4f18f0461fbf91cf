#include "ck_bfloat16.h"
#include "ck_internal.h"

int ck_has_bfloat16(void) {
#if defined(__x86_64__)
  return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
#else
  return 0;
#endif
}

CK_CLONES void ck_bfloat16_from_f32(const float *x, uint16_t *y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = (uint16_t)ck_bfloat16_bits(x[i]);
}

CK_CLONES void ck_bfloat16_transposed_f32(const float *x, uint16_t *y, size_t rows, size_t columns,
                                          size_t from, size_t to) {
  enum { SIDE = 32 };
  uint16_t tile[SIDE][SIDE];
  for (size_t r0 = 0; r0 < rows; r0 += SIDE)
    for (size_t c0 = from; c0 < to; c0 += SIDE) {
      size_t height = rows - r0 < SIDE ? rows - r0 : SIDE, width = to - c0 < SIDE ? to - c0 : SIDE;
      for (size_t r = 0; r < height; r++)
        for (size_t c = 0; c < width; c++)
          tile[r][c] = (uint16_t)ck_bfloat16_bits(x[(r0 + r) * columns + c0 + c]);
      for (size_t c = 0; c < width; c++)
        for (size_t r = 0; r < height; r++) y[(c0 + c) * rows + r0 + r] = tile[r][c];
    }
}

CK_CLONES void ck_bfloat16_round_f32(const float *x, float *y, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t bits = ck_bfloat16_bits(x[i]) << 16;
    memcpy(y + i, &bits, 4);
  }
}

CK_CLONES void ck_store_rows_f32(const float *x, const float *bias, float *y, size_t ldy, size_t rows,
                                 size_t n, int add) {
  for (size_t r = 0; r < rows; r++, x += n, y += ldy) {
    if (add)
      for (size_t j = 0; j < n; j++) y[j] += x[j];
    else
      memcpy(y, x, n * sizeof *y);
    if (bias)
      for (size_t j = 0; j < n; j++) y[j] += bias[j];
  }
}

CK_CLONES void ck_bfloat16_rows_f32(const float *x, const float *bias, uint16_t *y, size_t rows,
                                    size_t n) {
  for (size_t r = 0; r < rows; r++, x += n, y += n)
    for (size_t j = 0; j < n; j++) y[j] = (uint16_t)ck_bfloat16_bits(bias ? x[j] + bias[j] : x[j]);
}

CK_CLONES void ck_bfloat16_to_f32(const uint16_t *x, float *y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = ck_from_bfloat16(x[i]);
}

CK_CLONES void ck_gelu_forward_bf16(const uint16_t *x, uint16_t *y, size_t n) {
  _Pragma("clang loop vectorize(assume_safety)") for (size_t i = 0; i < n; i++)
    y[i] = (uint16_t)ck_bfloat16_bits(ck_gelu(ck_from_bfloat16(x[i])));
}

CK_CLONES void ck_gelu_backward_bf16(const uint16_t *restrict x, const float *restrict dy,
                                     float *restrict dx, size_t n, int accumulate) {
  if (accumulate)
    for (size_t i = 0; i < n; i++) dx[i] += dy[i] * ck_gelu_slope(ck_from_bfloat16(x[i]));
  else
    for (size_t i = 0; i < n; i++) dx[i] = dy[i] * ck_gelu_slope(ck_from_bfloat16(x[i]));
}
