#include "ck_internal.h"
#include "ck_norm.h"

CK_CLONES void ck_row_norm_forward(const float *restrict x, const float *restrict weight,
                                   const float *restrict bias, int centred, float eps,
                                   void *restrict out, int is_bfloat16, float *restrict mean,
                                   float *restrict rstd, size_t rows, size_t width) {
  for (size_t n = 0; n < rows; n++) {
    const float *row = x + n * width;
    float *y = (float *)out + n * width, sum = 0, squares = 0;
    uint16_t *rounded = (uint16_t *)out + n * width;
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
    if (!bias)
      for (size_t d = 0; d < width; d++) y[d] = (row[d] - m) * r * weight[d];
    else if (is_bfloat16)
      for (size_t d = 0; d < width; d++)
        rounded[d] = (uint16_t)ck_bfloat16_bits((row[d] - m) * r * weight[d] + bias[d]);
    else
      for (size_t d = 0; d < width; d++) y[d] = (row[d] - m) * r * weight[d] + bias[d];
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
        float h = g[d] * weight[d];
        a += h;
        b += h * (row[d] - m);
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

CK_CLONES void ck_gated_rmsnorm_forward_f32(const float *restrict y, const float *restrict z,
                                            const float *restrict weight, float eps,
                                            float *restrict out, float *restrict rstd,
                                            size_t rows, size_t dim, size_t groups) {
  size_t width = dim / groups;
  for (size_t part = 0; part < rows * groups; part++) {
    const float *a = y + part * width, *b = z + part * width;
    const float *w = weight + part % groups * width;
    float *to = out + part * width, squares = 0;
    for (size_t i = 0; i < width; i++) to[i] = a[i] * ck_silu(b[i]);
    {
      CK_REASSOCIATE
      for (size_t i = 0; i < width; i++) squares += to[i] * to[i];
    }
    float r = 1.0f / sqrtf(squares / (float)width + eps);
    rstd[part] = r;
    for (size_t i = 0; i < width; i++) to[i] *= r * w[i];
  }
}

CK_CLONES void ck_gated_rmsnorm_backward_f32(const float *restrict dout, const float *restrict y,
                                             const float *restrict z,
                                             const float *restrict weight,
                                             const float *restrict rstd, float *restrict dy,
                                             int add_y, float *restrict dz, int add_z,
                                             float *restrict dweight, size_t rows, size_t dim,
                                             size_t groups) {
  size_t width = dim / groups;
  for (size_t part = 0; part < rows * groups; part++) {
    const float *a = y + part * width, *b = z + part * width, *g = dout + part * width;
    const float *w = weight + part % groups * width;
    float r = rstd[part], mean = 0;
    if (dweight) {
      float *to = dweight + part % groups * width;
      for (size_t i = 0; i < width; i++) to[i] += g[i] * a[i] * ck_silu(b[i]) * r;
    }
    if (!dy && !dz) continue;
    {
      CK_REASSOCIATE
      for (size_t i = 0; i < width; i++) mean += a[i] * ck_silu(b[i]) * w[i] * g[i];
    }
    float pull = mean / (float)width * r * r * r;
    if (dy) {
      float *to = dy + part * width, keep = add_y ? 1.0f : 0.0f;
      if (!add_y) memset(to, 0, width * sizeof *to);
      for (size_t i = 0; i < width; i++) {
        float gate = ck_silu(b[i]), slope = r * w[i] * g[i] - pull * a[i] * gate;
        to[i] = keep * to[i] + slope * gate;
      }
    }
    if (dz) {
      float *to = dz + part * width, keep = add_z ? 1.0f : 0.0f;
      if (!add_z) memset(to, 0, width * sizeof *to);
      for (size_t i = 0; i < width; i++) {
        float sigmoid = ck_sigmoid(b[i]), gate = b[i] * sigmoid;
        float slope = r * w[i] * g[i] - pull * a[i] * gate;
        to[i] = keep * to[i] + slope * a[i] * (sigmoid + gate * (1.0f - sigmoid));
      }
    }
  }
}
