#include "ck_grid.h"
#include "ck_internal.h"

enum { CHANNELS = 64 };

/* taps (kernel kernel, CHANNELS): the weights of n channels, tap by tap. */
CK_INLINE void gather_taps(const float *weight, float taps[][CHANNELS], size_t n, size_t count) {
  for (size_t j = 0; j < count; j++)
    for (size_t c = 0; c < n; c++) taps[j][c] = weight[c * count + j];
}

/* Calls BODY for every pair of an output token `t` and an input token `s` that tap `j` joins. */
#define EACH_PAIR(rows, columns, kernel, BODY)                                                     \
  for (size_t r = 0; r < (rows); r++)                                                              \
    for (size_t i = 0; i < (columns); i++)                                                         \
      for (size_t a = 0; a < (kernel); a++) {                                                      \
        if (r + a < (kernel) / 2 || r + a - (kernel) / 2 >= (rows)) continue;                      \
        for (size_t b = 0; b < (kernel); b++) {                                                    \
          if (i + b < (kernel) / 2 || i + b - (kernel) / 2 >= (columns)) continue;                 \
          const size_t t = r * (columns) + i, j = a * (kernel) + b;                                \
          const size_t s = (r + a - (kernel) / 2) * (columns) + i + b - (kernel) / 2;              \
          BODY                                                                                     \
        }                                                                                          \
      }

CK_CLONES void ck_grid_conv_forward_f32(const float *x, size_t stride, const float *weight,
                                        const float *bias, float *y, size_t out_stride, size_t rows,
                                        size_t columns, size_t channels, size_t kernel) {
  float taps[CK_GRID_MOST_TAPS][CHANNELS];
  for (size_t c0 = 0; c0 < channels; c0 += CHANNELS) {
    const size_t n = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    gather_taps(weight + c0 * kernel * kernel, taps, n, kernel * kernel);
    for (size_t t = 0; t < rows * columns; t++)
      for (size_t c = 0; c < n; c++) y[t * out_stride + c0 + c] += bias[c0 + c];
    EACH_PAIR(rows, columns, kernel, {
      float *restrict to = y + t * out_stride + c0;
      const float *restrict from = x + s * stride + c0;
      for (size_t c = 0; c < n; c++) to[c] += taps[j][c] * from[c];
    })
  }
}

CK_CLONES void ck_grid_conv_input_gradient_f32(const float *weight, const float *dy, size_t out_stride,
                                               float *dx, size_t stride, size_t rows, size_t columns,
                                               size_t channels, size_t kernel) {
  float taps[CK_GRID_MOST_TAPS][CHANNELS];
  for (size_t c0 = 0; c0 < channels; c0 += CHANNELS) {
    const size_t n = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    gather_taps(weight + c0 * kernel * kernel, taps, n, kernel * kernel);
    EACH_PAIR(rows, columns, kernel, {
      float *restrict to = dx + s * stride + c0;
      const float *restrict from = dy + t * out_stride + c0;
      for (size_t c = 0; c < n; c++) to[c] += taps[j][c] * from[c];
    })
  }
}

CK_CLONES void ck_grid_conv_weight_gradient_f32(const float *x, size_t stride, const float *dy,
                                                size_t out_stride, float *dweight, float *dbias,
                                                size_t rows, size_t columns, size_t channels,
                                                size_t kernel) {
  float sums[CK_GRID_MOST_TAPS][CHANNELS];
  for (size_t c0 = 0; c0 < channels; c0 += CHANNELS) {
    const size_t n = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    memset(sums, 0, sizeof sums);
    EACH_PAIR(rows, columns, kernel, {
      const float *from = x + s * stride + c0;
      const float *g = dy + t * out_stride + c0;
      for (size_t c = 0; c < n; c++) sums[j][c] += from[c] * g[c];
    })
    for (size_t j = 0; j < kernel * kernel; j++)
      for (size_t c = 0; c < n; c++) dweight[(c0 + c) * kernel * kernel + j] += sums[j][c];
    for (size_t t = 0; t < rows * columns; t++)
      for (size_t c = 0; c < n; c++) dbias[c0 + c] += dy[t * out_stride + c0 + c];
  }
}

CK_CLONES void ck_token_norm_forward_f32(const float *x, size_t stride, const float *weight,
                                         const float *bias, float epsilon, float *y, size_t out_stride,
                                         float *mean, float *scale, size_t tokens, size_t channels) {
  memset(mean, 0, channels * sizeof *mean);
  memset(scale, 0, channels * sizeof *scale);
  for (size_t t = 0; t < tokens; t++)
    for (size_t c = 0; c < channels; c++) mean[c] += x[t * stride + c];
  for (size_t c = 0; c < channels; c++) mean[c] /= (float)tokens;
  for (size_t t = 0; t < tokens; t++)
    for (size_t c = 0; c < channels; c++) {
      float r = x[t * stride + c] - mean[c];
      scale[c] += r * r;
    }
  for (size_t c = 0; c < channels; c++) scale[c] = 1.0f / sqrtf(scale[c] / (float)tokens + epsilon);
  for (size_t t = 0; t < tokens; t++)
    for (size_t c = 0; c < channels; c++)
      y[t * out_stride + c] = (x[t * stride + c] - mean[c]) * scale[c] * weight[c] + bias[c];
}

CK_CLONES void ck_token_norm_backward_f32(const float *x, size_t stride, const float *weight,
                                          const float *mean, const float *scale, const float *dy,
                                          size_t out_stride, float *dx, size_t dx_stride,
                                          float *dweight, float *dbias, size_t tokens,
                                          size_t channels) {
  for (size_t c0 = 0; c0 < channels; c0 += CHANNELS) {
    const size_t n = channels - c0 < CHANNELS ? channels - c0 : CHANNELS;
    float sum[CHANNELS] = {0}, along[CHANNELS] = {0};
    for (size_t t = 0; t < tokens; t++)
      for (size_t c = 0; c < n; c++) {
        float g = dy[t * out_stride + c0 + c];
        sum[c] += g;
        along[c] += g * (x[t * stride + c0 + c] - mean[c0 + c]) * scale[c0 + c];
      }
    for (size_t t = 0; t < tokens; t++)
      for (size_t c = 0; c < n; c++) {
        float normed = (x[t * stride + c0 + c] - mean[c0 + c]) * scale[c0 + c];
        float g = dy[t * out_stride + c0 + c] - (sum[c] + normed * along[c]) / (float)tokens;
        dx[t * dx_stride + c0 + c] = weight[c0 + c] * scale[c0 + c] * g;
      }
    for (size_t c = 0; c < n; c++) {
      dweight[c0 + c] += along[c];
      dbias[c0 + c] += sum[c];
    }
  }
}
