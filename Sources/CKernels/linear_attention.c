#include "ck_linear_attention.h"
#include "ck_tile.h"

enum { BLOCK = 48 };
#define EPSILON 1e-6f

/* out (n, padded) = elu(x) + 1, columns beyond d zero. */
CK_INLINE void features(const float *x, size_t stride, float *out, size_t n, size_t d,
                        size_t padded) {
  for (size_t i = 0; i < n; i++) {
    for (size_t c = 0; c < d; c++) {
      float value = x[i * stride + c];
      out[i * padded + c] = value > 0 ? value + 1.0f : ck_exp(value);
    }
    for (size_t c = d; c < padded; c++) out[i * padded + c] = 0;
  }
}

/* dx = dfeature phi'(x), where phi'(x) = min(phi(x), 1). */
CK_INLINE void through_features(const float *feature, const float *dfeature, float *dx,
                                size_t stride, size_t n, size_t d, size_t padded) {
  for (size_t i = 0; i < n; i++)
    for (size_t c = 0; c < d; c++) {
      float slope = feature[i * padded + c];
      dx[i * stride + c] = dfeature[i * padded + c] * (slope < 1.0f ? slope : 1.0f);
    }
}

/* sums (d, dp) = sum_j phi(k_j)^T v_j and z (dp) = sum_j phi(k_j). */
CK_INLINE void summarise(const float *k, const float *v, size_t stride, float *sums, float *z,
                         float *feature, float *packed, size_t tokens, size_t d, size_t dp) {
  memset(sums, 0, d * dp * sizeof *sums);
  memset(z, 0, dp * sizeof *z);
  for (size_t i = 0; i < tokens; i += BLOCK) {
    size_t rows = smaller(BLOCK, tokens - i);
    features(k + i * stride, stride, feature, rows, d, dp);
    pack(v + i * stride, stride, packed, rows, d, dp);
    multiply(feature, 1, dp, packed, dp, sums, dp, d, dp, rows, 1);
    for (size_t r = 0; r < rows; r++)
      for (size_t c = 0; c < dp; c++) z[c] += feature[r * dp + c];
  }
}

CK_INLINE float dot(const float *a, const float *b, size_t count) {
  CK_REASSOCIATE
  float sum = 0;
  for (size_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

CK_CLONES void ck_linear_attention_forward_f32(const float *q, const float *k, const float *v,
                                               size_t stride, float *out, size_t out_stride,
                                               size_t tokens, size_t head_dim) {
  size_t d = head_dim, dp = round_up(d);
  float *sums = scratch(d * dp + dp + 2 * BLOCK * dp);
  float *z = sums + d * dp, *feature = z + dp, *rows_out = feature + BLOCK * dp;
  summarise(k, v, stride, sums, z, feature, rows_out, tokens, d, dp);
  for (size_t i = 0; i < tokens; i += BLOCK) {
    size_t rows = smaller(BLOCK, tokens - i);
    features(q + i * stride, stride, feature, rows, d, dp);
    multiply(feature, dp, 1, sums, dp, rows_out, dp, rows, dp, d, 0);
    for (size_t r = 0; r < rows; r++) {
      float inverse = 1.0f / (dot(feature + r * dp, z, dp) + EPSILON);
      for (size_t c = 0; c < d; c++)
        out[(i + r) * out_stride + c] = rows_out[r * dp + c] * inverse;
    }
  }
}

CK_CLONES void ck_linear_attention_backward_f32(const float *q, const float *k, const float *v,
                                                size_t stride, const float *out,
                                                const float *dout, size_t out_stride, float *dq,
                                                float *dk, float *dv, size_t tokens,
                                                size_t head_dim) {
  size_t d = head_dim, dp = round_up(d);
  float *sums = scratch(3 * d * dp + 2 * dp + 3 * BLOCK * dp);
  float *turned = sums + d * dp, *dsums = turned + d * dp;
  float *z = dsums + d * dp, *dz = z + dp;
  float *feature = dz + dp, *packed = feature + BLOCK * dp, *dfeature = packed + BLOCK * dp;
  summarise(k, v, stride, sums, z, feature, packed, tokens, d, dp);
  pack_transposed(sums, dp, turned, d, d, dp);
  memset(dsums, 0, d * dp * sizeof *dsums);
  memset(dz, 0, dp * sizeof *dz);
  for (size_t i = 0; i < tokens; i += BLOCK) {
    size_t rows = smaller(BLOCK, tokens - i);
    features(q + i * stride, stride, feature, rows, d, dp);
    pack(dout + i * out_stride, out_stride, packed, rows, d, dp);
    for (size_t r = 0; r < rows; r++) {
      float *g = packed + r * dp, *f = feature + r * dp;
      float inverse = 1.0f / (dot(f, z, dp) + EPSILON);
      float along = -inverse * dot(g, out + (i + r) * out_stride, d);
      for (size_t c = 0; c < dp; c++) {
        g[c] *= inverse;
        dfeature[r * dp + c] = along * z[c];
        dz[c] += along * f[c];
      }
    }
    multiply(packed, dp, 1, turned, dp, dfeature, dp, rows, dp, d, 1);
    multiply(feature, 1, dp, packed, dp, dsums, dp, d, dp, rows, 1);
    through_features(feature, dfeature, dq + i * stride, stride, rows, d, dp);
  }
  pack_transposed(dsums, dp, turned, d, d, dp);
  for (size_t i = 0; i < tokens; i += BLOCK) {
    size_t rows = smaller(BLOCK, tokens - i);
    features(k + i * stride, stride, feature, rows, d, dp);
    multiply(feature, dp, 1, dsums, dp, dfeature, dp, rows, dp, d, 0);
    for (size_t r = 0; r < rows; r++)
      memcpy(dv + (i + r) * stride, dfeature + r * dp, d * sizeof(float));
    pack(v + i * stride, stride, packed, rows, d, dp);
    for (size_t r = 0; r < rows; r++) memcpy(dfeature + r * dp, dz, dp * sizeof(float));
    multiply(packed, dp, 1, turned, dp, dfeature, dp, rows, dp, d, 1);
    through_features(feature, dfeature, dk + i * stride, stride, rows, d, dp);
  }
}
