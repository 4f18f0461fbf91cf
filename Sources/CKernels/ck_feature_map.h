#pragma once
#include "ck_linear_attention.h"
#include "ck_tile.h"

/* Feature maps of linear attention; f features of d channels, in rows of fp, f rounded up. */

CK_INLINE size_t feature_count(int map, size_t d) { return map == CK_FEATURES_EXP_PAIR ? 2 * d : d; }

/* out (n, fp) = phi(x), columns beyond f zero. */
CK_INLINE void features(int map, const float *x, size_t stride, float *out, size_t n, size_t d,
                        size_t fp) {
  const size_t f = feature_count(map, d);
  for (size_t i = 0; i < n; i++) {
    const float *from = x + i * stride;
    float *to = out + i * fp;
    switch (map) {
    case CK_FEATURES_RELU:
      for (size_t c = 0; c < d; c++) to[c] = from[c] > 0 ? from[c] : 0;
      break;
    case CK_FEATURES_EXP_PAIR: {
      CK_REASSOCIATE
      float top = 0, sum = 0;
      for (size_t c = 0; c < d; c++) {
        float size = fabsf(from[c]);
        top = size > top ? size : top;
      }
      for (size_t c = 0; c < d; c++) {
        to[c] = ck_exp(from[c] - top);
        to[d + c] = ck_exp(-from[c] - top);
        sum += to[c] + to[d + c];
      }
      const float inverse = 1.0f / sum;
      for (size_t c = 0; c < f; c++) to[c] *= inverse;
      break;
    }
    default:
      for (size_t c = 0; c < d; c++) to[c] = from[c] > 0 ? from[c] + 1.0f : ck_exp(from[c]);
    }
    for (size_t c = f; c < fp; c++) to[c] = 0;
  }
}

/* dx (n, d) from phi(x) and its gradient. */
CK_INLINE void through_features(int map, const float *feature, const float *dfeature, float *dx,
                                size_t stride, size_t n, size_t d, size_t fp) {
  for (size_t i = 0; i < n; i++) {
    const float *phi = feature + i * fp, *g = dfeature + i * fp;
    float *to = dx + i * stride;
    switch (map) {
    case CK_FEATURES_RELU:
      for (size_t c = 0; c < d; c++) to[c] = phi[c] > 0 ? g[c] : 0;
      break;
    case CK_FEATURES_EXP_PAIR: {
      CK_REASSOCIATE
      float mean = 0;
      for (size_t c = 0; c < 2 * d; c++) mean += phi[c] * g[c];
      for (size_t c = 0; c < d; c++) to[c] = phi[c] * (g[c] - mean) - phi[d + c] * (g[d + c] - mean);
      break;
    }
    default: /* phi'(x) = min(phi(x), 1) */
      for (size_t c = 0; c < d; c++) to[c] = g[c] * (phi[c] < 1.0f ? phi[c] : 1.0f);
    }
  }
}

/* sums (f, dp) = sum_j phi(k_j)^T v_j and z (fp) = sum_j phi(k_j); feature and packed: FEATURE_ROWS rows of fp
   and of dp. */
enum { FEATURE_ROWS = 48 };
CK_INLINE void summarise(int map, const float *k, const float *v, size_t stride, float *sums, float *z,
                         float *feature, float *packed, size_t tokens, size_t d) {
  const size_t f = feature_count(map, d), fp = round_up(f), dp = round_up(d);
  memset(sums, 0, f * dp * sizeof *sums);
  memset(z, 0, fp * sizeof *z);
  for (size_t i = 0; i < tokens; i += FEATURE_ROWS) {
    size_t rows = smaller(FEATURE_ROWS, tokens - i);
    features(map, k + i * stride, stride, feature, rows, d, fp);
    pack(v + i * stride, stride, packed, rows, d, dp);
    multiply(feature, 1, fp, packed, dp, sums, dp, f, dp, rows, 1);
    for (size_t r = 0; r < rows; r++)
      for (size_t c = 0; c < fp; c++) z[c] += feature[r * fp + c];
  }
}

CK_INLINE float dot(const float *a, const float *b, size_t count) {
  CK_REASSOCIATE
  float sum = 0;
  for (size_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}
