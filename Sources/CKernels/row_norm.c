#include "ck_internal.h"
#include "ck_row_norm.h"

CK_CLONES void ck_row_norm_forward_f32(const float *restrict x, const float *restrict weight,
                                       const float *restrict bias, int centred, float eps,
                                       float *restrict y, float *restrict mean,
                                       float *restrict rstd, size_t rows, size_t width) {
  for (size_t n = 0; n < rows; n++) {
    const float *row = x + n * width;
    float *to = y + n * width, sum = 0, squares = 0;
    if (centred) {
      CK_REASSOCIATE
      for (size_t d = 0; d < width; d++) sum += row[d];
    }
    float m = sum / (float)width;
    {
      CK_REASSOCIATE
      for (size_t d = 0; d < width; d++) squares += (row[d] - m) * (row[d] - m);
    }
    float r = 1.0f / sqrtf(squares / (float)width + eps);
    mean[n] = m;
    rstd[n] = r;
    if (bias)
      for (size_t d = 0; d < width; d++) to[d] = (row[d] - m) * r * weight[d] + bias[d];
    else
      for (size_t d = 0; d < width; d++) to[d] = (row[d] - m) * r * weight[d];
  }
}

CK_CLONES void ck_row_norm_backward_f32(const float *restrict dy, const float *restrict x,
                                        const float *restrict weight, int centred,
                                        const float *restrict mean, const float *restrict rstd,
                                        float *restrict dx, int accumulate,
                                        float *restrict dweight, float *restrict dbias,
                                        size_t rows, size_t width) {
  for (size_t n = 0; n < rows; n++) {
    const float *row = x + n * width, *g = dy + n * width;
    float m = mean[n], r = rstd[n];
    if (dweight)
      for (size_t d = 0; d < width; d++) dweight[d] += g[d] * ((row[d] - m) * r);
    if (dbias)
      for (size_t d = 0; d < width; d++) dbias[d] += g[d];
    if (!dx) continue;
    float a = 0, b = 0;
    {
      CK_REASSOCIATE
      for (size_t d = 0; d < width; d++) {
        a += g[d] * weight[d];
        b += g[d] * weight[d] * (row[d] - m);
      }
    }
    a = centred ? a / (float)width : 0.0f;
    b = b * r * r / (float)width;
    float *out = dx + n * width;
    if (accumulate)
      for (size_t d = 0; d < width; d++) out[d] += r * (g[d] * weight[d] - a - (row[d] - m) * b);
    else
      for (size_t d = 0; d < width; d++) out[d] = r * (g[d] * weight[d] - a - (row[d] - m) * b);
  }
}
