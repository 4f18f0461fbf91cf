#include "ck_gating.h"
#include "ck_internal.h"

CK_CLONES void ck_swiglu_forward_f32(const float *restrict a, const float *restrict b,
                                     size_t stride, float *restrict y, size_t y_stride, size_t rows,
                                     size_t width) {
  for (size_t n = 0; n < rows; n++)
    for (size_t i = 0; i < width; i++)
      y[n * y_stride + i] = ck_silu(a[n * stride + i]) * b[n * stride + i];
}

CK_CLONES void ck_swiglu_backward_f32(const float *restrict dy, const float *restrict a,
                                      const float *restrict b, size_t stride, float *restrict da,
                                      float *restrict db, size_t d_stride, size_t rows,
                                      size_t width) {
  for (size_t n = 0; n < rows; n++)
    for (size_t i = 0; i < width; i++) {
      float x = a[n * stride + i], g = dy[n * width + i];
      float sigmoid = ck_sigmoid(x), gate = x * sigmoid;
      da[n * d_stride + i] = g * b[n * stride + i] * (sigmoid + gate * (1.0f - sigmoid));
      db[n * d_stride + i] = g * gate;
    }
}
