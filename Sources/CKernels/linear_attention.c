#include "ck_feature_map.h"

#define EPSILON 1e-6f

CK_CLONES void ck_linear_attention_forward_f32(int map, const float *q, const float *k,
                                               const float *v, size_t stride, float *out,
                                               size_t out_stride, size_t tokens, size_t head_dim) {
  const size_t d = head_dim, f = feature_count(map, d), dp = round_up(d), fp = round_up(f);
  float *sums = scratch(f * dp + fp + FEATURE_ROWS * (fp + dp));
  float *z = sums + f * dp, *feature = z + fp, *rows_out = feature + FEATURE_ROWS * fp;
  summarise(map, k, v, stride, sums, z, feature, rows_out, tokens, d);
  for (size_t i = 0; i < tokens; i += FEATURE_ROWS) {
    size_t rows = smaller(FEATURE_ROWS, tokens - i);
    features(map, q + i * stride, stride, feature, rows, d, fp);
    multiply(feature, fp, 1, sums, dp, rows_out, dp, rows, dp, f, 0);
    for (size_t r = 0; r < rows; r++) {
      float inverse = 1.0f / (dot(feature + r * fp, z, fp) + EPSILON);
      for (size_t c = 0; c < d; c++)
        out[(i + r) * out_stride + c] = rows_out[r * dp + c] * inverse;
    }
  }
}

CK_CLONES void ck_linear_attention_backward_f32(int map, const float *q, const float *k,
                                                const float *v, size_t stride, const float *out,
                                                const float *dout, size_t out_stride, float *dq,
                                                float *dk, float *dv, size_t tokens,
                                                size_t head_dim) {
  const size_t d = head_dim, f = feature_count(map, d), dp = round_up(d), fp = round_up(f);
  float *sums = scratch(2 * f * dp + d * fp + 2 * fp + 2 * FEATURE_ROWS * (fp + dp));
  float *dsums = sums + f * dp, *turned = dsums + f * dp;
  float *z = turned + d * fp, *dz = z + fp;
  float *feature = dz + fp, *dfeature = feature + FEATURE_ROWS * fp;
  float *packed = dfeature + FEATURE_ROWS * fp, *rows_out = packed + FEATURE_ROWS * dp;
  summarise(map, k, v, stride, sums, z, feature, packed, tokens, d);
  pack_transposed(sums, dp, turned, f, d, fp);
  memset(dsums, 0, f * dp * sizeof *dsums);
  memset(dz, 0, fp * sizeof *dz);
  for (size_t i = 0; i < tokens; i += FEATURE_ROWS) {
    size_t rows = smaller(FEATURE_ROWS, tokens - i);
    features(map, q + i * stride, stride, feature, rows, d, fp);
    pack(dout + i * out_stride, out_stride, packed, rows, d, dp);
    for (size_t r = 0; r < rows; r++) {
      float *g = packed + r * dp, *row = feature + r * fp;
      float inverse = 1.0f / (dot(row, z, fp) + EPSILON);
      float along = -inverse * dot(g, out + (i + r) * out_stride, d);
      for (size_t c = 0; c < dp; c++) g[c] *= inverse;
      for (size_t c = 0; c < fp; c++) {
        dfeature[r * fp + c] = along * z[c];
        dz[c] += along * row[c];
      }
    }
    multiply(packed, dp, 1, turned, fp, dfeature, fp, rows, fp, d, 1);
    multiply(feature, 1, fp, packed, dp, dsums, dp, f, dp, rows, 1);
    through_features(map, feature, dfeature, dq + i * stride, stride, rows, d, fp);
  }
  pack_transposed(dsums, dp, turned, f, d, fp);
  for (size_t i = 0; i < tokens; i += FEATURE_ROWS) {
    size_t rows = smaller(FEATURE_ROWS, tokens - i);
    features(map, k + i * stride, stride, feature, rows, d, fp);
    multiply(feature, fp, 1, dsums, dp, rows_out, dp, rows, dp, f, 0);
    for (size_t r = 0; r < rows; r++)
      memcpy(dv + (i + r) * stride, rows_out + r * dp, d * sizeof(float));
    pack(v + i * stride, stride, packed, rows, d, dp);
    for (size_t r = 0; r < rows; r++) memcpy(dfeature + r * fp, dz, fp * sizeof(float));
    multiply(packed, dp, 1, turned, fp, dfeature, fp, rows, fp, d, 1);
    through_features(map, feature, dfeature, dk + i * stride, stride, rows, d, fp);
  }
}
