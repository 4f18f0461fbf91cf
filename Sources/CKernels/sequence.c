#include "ck_internal.h"
#include "ck_sequence.h"
#include <stdlib.h>

enum { MAX_TAPS = 64, TILE = 64 };

/* Gathers weight[c..c+n][j] so that one tap is contiguous over channels. */
CK_INLINE void gather_tap(const float *weight, float *tap, size_t n, size_t taps, size_t j) {
  for (size_t c = 0; c < n; c++) tap[c] = weight[c * taps + j];
}

CK_CLONES void ck_causal_conv_forward_f32(const float *restrict x, const float *restrict weight,
                                          const float *restrict bias, float *restrict y,
                                          size_t tokens, size_t channels, size_t taps) {
  float tap[MAX_TAPS][TILE];
  for (size_t c0 = 0; c0 < channels; c0 += TILE) {
    size_t n = channels - c0 < TILE ? channels - c0 : TILE;
    for (size_t j = 0; j < taps; j++) gather_tap(weight + c0 * taps, tap[j], n, taps, j);
    for (size_t t = 0; t < tokens; t++) {
      float *out = y + t * channels + c0;
      for (size_t c = 0; c < n; c++) out[c] = bias[c0 + c];
      for (size_t j = 0; j < taps; j++) {
        if (t + j + 1 < taps) continue;
        const float *in = x + (t + j + 1 - taps) * channels + c0;
        for (size_t c = 0; c < n; c++) out[c] += tap[j][c] * in[c];
      }
    }
  }
}

CK_CLONES void ck_causal_conv_backward_f32(const float *restrict x, const float *restrict weight,
                                           const float *restrict dy, float *restrict dx,
                                           float *restrict dweight, float *restrict dbias,
                                           size_t tokens, size_t channels, size_t taps,
                                           int accumulate) {
  float tap[MAX_TAPS][TILE];
  for (size_t c0 = 0; c0 < channels; c0 += TILE) {
    size_t n = channels - c0 < TILE ? channels - c0 : TILE;
    if (dx) {
      for (size_t j = 0; j < taps; j++) gather_tap(weight + c0 * taps, tap[j], n, taps, j);
      for (size_t s = 0; s < tokens; s++) {
        float *out = dx + s * channels + c0;
        if (!accumulate) memset(out, 0, n * sizeof *out);
        for (size_t j = 0; j < taps; j++) {
          size_t t = s + taps - 1 - j;
          if (t >= tokens) continue;
          const float *g = dy + t * channels + c0;
          for (size_t c = 0; c < n; c++) out[c] += tap[j][c] * g[c];
        }
      }
    }
    if (dbias)
      for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < n; c++) dbias[c0 + c] += dy[t * channels + c0 + c];
    if (dweight)
      for (size_t j = 0; j < taps; j++) {
        float sum[TILE] = {0};
        for (size_t t = taps - 1 - j; t < tokens; t++) {
          const float *g = dy + t * channels + c0;
          const float *in = x + (t + j + 1 - taps) * channels + c0;
          for (size_t c = 0; c < n; c++) sum[c] += g[c] * in[c];
        }
        for (size_t c = 0; c < n; c++) dweight[(c0 + c) * taps + j] += sum[c];
      }
  }
}

CK_CLONES void ck_hyena_gate_forward_f32(const float *restrict qkv, float *restrict y,
                                         size_t tokens, size_t dim) {
  for (size_t t = 0; t < tokens; t++) {
    const float *q = qkv + t * 3 * dim, *k = q + dim, *v = k + dim;
    for (size_t d = 0; d < dim; d++) y[t * dim + d] = q[d] * (k[d] * v[d]);
  }
}

CK_CLONES void ck_hyena_gate_backward_f32(const float *restrict qkv, const float *restrict dy,
                                          float *restrict dqkv, size_t tokens, size_t dim,
                                          int accumulate) {
  for (size_t t = 0; t < tokens; t++) {
    const float *q = qkv + t * 3 * dim, *k = q + dim, *v = k + dim, *g = dy + t * dim;
    float *dq = dqkv + t * 3 * dim, *dk = dq + dim, *dv = dk + dim;
    if (!accumulate) memset(dq, 0, 3 * dim * sizeof *dq);
    for (size_t d = 0; d < dim; d++) {
      dq[d] += g[d] * (k[d] * v[d]);
      dk[d] += g[d] * q[d] * v[d];
      dv[d] += g[d] * q[d] * k[d];
    }
  }
}

CK_CLONES void ck_row_conv_forward_f32(const float *restrict x, const float *restrict weight,
                                       float bias, float *restrict y, size_t features,
                                       size_t taps) {
  for (size_t f = 0; f < features; f++) y[f] = bias;
  for (size_t j = 0; j < taps; j++) {
    size_t late = taps - 1 - j;
    float w = weight[j];
    for (size_t f = late; f < features; f++) y[f] += w * x[f - late];
  }
}

CK_CLONES void ck_row_conv_backward_f32(const float *restrict x, const float *restrict weight,
                                        const float *restrict dy, float *restrict dx,
                                        float *restrict dweight, float *restrict dbias,
                                        size_t features, size_t taps, int accumulate) {
  if (dx && !accumulate) memset(dx, 0, features * sizeof *dx);
  for (size_t j = 0; j < taps; j++) {
    size_t late = taps - 1 - j;
    float w = weight[j];
    if (dx)
      for (size_t f = late; f < features; f++) dx[f - late] += w * dy[f];
    if (dweight) {
      CK_REASSOCIATE
      float sum = 0;
      for (size_t f = late; f < features; f++) sum += dy[f] * x[f - late];
      dweight[j] += sum;
    }
  }
  if (dbias) {
    CK_REASSOCIATE
    float sum = 0;
    for (size_t f = 0; f < features; f++) sum += dy[f];
    *dbias += sum;
  }
}
