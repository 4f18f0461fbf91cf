#include "ck_internal.h"
#include "ck_norm.h"

CK_CLONES void ck_layernorm_modulate_forward(const float *restrict x, const float *restrict shift,
                                             const float *restrict scale, float eps,
                                             void *restrict out, int is_bfloat16,
                                             float *restrict mean, float *restrict rstd,
                                             size_t tokens, size_t dim) {
  float *y = out;
  uint16_t *rounded = out;
  for (size_t n = 0; n < tokens; n++) {
    const float *row = x + n * dim;
    float sum = 0, squares = 0;
    {
      CK_REASSOCIATE
      for (size_t d = 0; d < dim; d++) sum += row[d];
    }
    float m = sum / (float)dim;
    {
      CK_REASSOCIATE
      for (size_t d = 0; d < dim; d++) squares += (row[d] - m) * (row[d] - m);
    }
    float r = 1.0f / sqrtf(squares / (float)dim + eps);
    mean[n] = m;
    rstd[n] = r;
    if (is_bfloat16)
      for (size_t d = 0; d < dim; d++)
        rounded[n * dim + d] =
            (uint16_t)ck_bfloat16_bits((row[d] - m) * r * (1.0f + scale[d]) + shift[d]);
    else
      for (size_t d = 0; d < dim; d++)
        y[n * dim + d] = (row[d] - m) * r * (1.0f + scale[d]) + shift[d];
  }
}

CK_CLONES void ck_layernorm_modulate_backward_f32(const float *restrict dy,
                                                  const float *restrict x,
                                                  const float *restrict scale,
                                                  const float *restrict mean,
                                                  const float *restrict rstd, float *restrict dx,
                                                  float *restrict dshift, float *restrict dscale,
                                                  size_t tokens, size_t dim, int accumulate) {
  for (size_t n = 0; n < tokens; n++) {
    const float *row = x + n * dim, *g = dy + n * dim;
    float m = mean[n], r = rstd[n];
    if (dshift)
      for (size_t d = 0; d < dim; d++) {
        dshift[d] += g[d];
        dscale[d] += g[d] * ((row[d] - m) * r);
      }
    if (!dx) continue;
    float a = 0, b = 0;
    {
      CK_REASSOCIATE
      for (size_t d = 0; d < dim; d++) {
        float h = g[d] * (1.0f + scale[d]);
        a += h;
        b += h * (row[d] - m);
      }
    }
    a /= (float)dim;
    b = b * r * r / (float)dim;
    float *out = dx + n * dim;
    if (accumulate)
      for (size_t d = 0; d < dim; d++)
        out[d] += r * (g[d] * (1.0f + scale[d]) - a - (row[d] - m) * b);
    else
      for (size_t d = 0; d < dim; d++)
        out[d] = r * (g[d] * (1.0f + scale[d]) - a - (row[d] - m) * b);
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
