#include "ck_internal.h"
#include "ck_norm.h"

CK_CLONES void ck_layernorm_modulate_forward_f32(const float *restrict x,
                                                 const float *restrict shift,
                                                 const float *restrict scale, float eps,
                                                 float *restrict y, float *restrict mean,
                                                 float *restrict rstd, size_t tokens, size_t dim) {
  for (size_t n = 0; n < tokens; n++) {
    const float *row = x + n * dim;
    float *out = y + n * dim;
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
    for (size_t d = 0; d < dim; d++) out[d] = (row[d] - m) * r * (1.0f + scale[d]) + shift[d];
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
