#include "ck_attention.h"
#include "ck_tile.h"

enum { BLOCK = 48 };

/* Largest element of a row whose width is a multiple of 16. */
CK_INLINE float row_max(const float *row, size_t width) {
  vec top = *(const vec *)row;
  for (size_t j = LANES; j < width; j += LANES)
    top = __builtin_elementwise_max(top, *(const vec *)(row + j));
  return __builtin_reduce_max(top);
}

/* Sum of a row whose width is a multiple of 16. */
CK_INLINE float row_sum(const float *row, size_t width) {
  vec total = *(const vec *)row;
  for (size_t j = LANES; j < width; j += LANES) total += *(const vec *)(row + j);
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += total[lane];
  return sum;
}

/* First key column (a multiple of 16) and one past the last for queries i0 ..< i1. */
CK_INLINE void key_range(size_t i0, size_t i1, size_t tokens, size_t left, size_t right,
                         size_t *from, size_t *to) {
  size_t low = left >= i0 ? 0 : i0 - left;
  size_t high = right >= tokens || i1 + right > tokens ? tokens : i1 + right;
  *from = low / LANES * LANES;
  *to = high;
}

/* Columns of query i's row that it may see, relative to `from`. */
CK_INLINE void visible(size_t i, size_t tokens, size_t left, size_t right, size_t from, size_t *lo,
                       size_t *hi) {
  *lo = (left >= i ? 0 : i - left);
  *lo = *lo < from ? 0 : *lo - from;
  *hi = (right >= tokens || i + right + 1 > tokens ? tokens : i + right + 1) - from;
}

CK_CLONES void ck_attention_forward_f32(const float *q, const float *k, const float *v,
                                        size_t stride, float *out, size_t out_stride, float *lse,
                                        size_t tokens, size_t head_dim, float scale, size_t left,
                                        size_t right) {
  size_t np = round_up(tokens), dp = round_up(head_dim);
  float *kt = scratch(head_dim * np + tokens * dp + 6 * np + 6 * dp);
  float *vp = kt + head_dim * np, *s = vp + tokens * dp, *o = s + 6 * np;
  pack_transposed(k, stride, kt, tokens, head_dim, np);
  pack(v, stride, vp, tokens, head_dim, dp);
  for (size_t i0 = 0; i0 < tokens; i0 += 6) {
    size_t rows = smaller(6, tokens - i0), from, to;
    key_range(i0, i0 + rows, tokens, left, right, &from, &to);
    size_t width = round_up(to - from);
    float sum[6];
    multiply(q + i0 * stride, stride, 1, kt + from, np, s, width, rows, width, head_dim, 0);
    for (size_t r = 0; r < rows; r++) {
      float *row = s + r * width;
      size_t lo, hi;
      visible(i0 + r, tokens, left, right, from, &lo, &hi);
      for (size_t j = 0; j < lo; j++) row[j] = -INFINITY;
      for (size_t j = hi; j < width; j++) row[j] = -INFINITY;
      float top = row_max(row, width);
      for (size_t j = 0; j < width; j++) row[j] = ck_exp((row[j] - top) * scale);
      for (size_t j = 0; j < lo; j++) row[j] = 0;
      for (size_t j = hi; j < width; j++) row[j] = 0;
      sum[r] = row_sum(row, width);
      lse[i0 + r] = top * scale + logf(sum[r]);
    }
    multiply(s, width, 1, vp + from * dp, dp, o, dp, rows, dp, to - from, 0);
    for (size_t r = 0; r < rows; r++) {
      float *to_row = out + (i0 + r) * out_stride, inverse = 1.0f / sum[r];
      for (size_t c = 0; c < head_dim; c++) to_row[c] = o[r * dp + c] * inverse;
    }
  }
}

CK_CLONES void ck_attention_backward_f32(const float *q, const float *k, const float *v,
                                         size_t stride, const float *out, const float *dout,
                                         size_t out_stride, const float *lse, float *dq, float *dk,
                                         float *dv, size_t tokens, size_t head_dim, float scale,
                                         size_t left, size_t right) {
  size_t np = round_up(tokens), dp = round_up(head_dim);
  float *kt = scratch(2 * head_dim * np + 5 * tokens * dp + 2 * BLOCK * np + BLOCK * dp);
  float *vt = kt + head_dim * np, *kp = vt + head_dim * np, *qp = kp + tokens * dp;
  float *gp = qp + tokens * dp, *dkp = gp + tokens * dp, *dvp = dkp + tokens * dp;
  float *p = dvp + tokens * dp, *ds = p + BLOCK * np, *block = ds + BLOCK * np;
  pack_transposed(k, stride, kt, tokens, head_dim, np);
  pack_transposed(v, stride, vt, tokens, head_dim, np);
  pack(k, stride, kp, tokens, head_dim, dp);
  pack(q, stride, qp, tokens, head_dim, dp);
  pack(dout, out_stride, gp, tokens, head_dim, dp);
  memset(dkp, 0, 2 * tokens * dp * sizeof(float));
  for (size_t i0 = 0; i0 < tokens; i0 += BLOCK) {
    size_t rows = smaller(BLOCK, tokens - i0), from, to;
    key_range(i0, i0 + rows, tokens, left, right, &from, &to);
    size_t width = round_up(to - from);
    multiply(qp + i0 * dp, dp, 1, kt + from, np, p, width, rows, width, head_dim, 0);
    multiply(gp + i0 * dp, dp, 1, vt + from, np, ds, width, rows, width, head_dim, 0);
    for (size_t r = 0; r < rows; r++) {
      float *pr = p + r * width, *dr = ds + r * width;
      const float *g = gp + (i0 + r) * dp, *o = out + (i0 + r) * out_stride;
      size_t lo, hi;
      visible(i0 + r, tokens, left, right, from, &lo, &hi);
      float delta = 0, shift = lse[i0 + r];
      {
        CK_REASSOCIATE
        for (size_t c = 0; c < head_dim; c++) delta += g[c] * o[c];
      }
      for (size_t j = 0; j < lo; j++) pr[j] = dr[j] = 0;
      for (size_t j = lo; j < hi; j++) {
        pr[j] = ck_exp(pr[j] * scale - shift);
        dr[j] = pr[j] * (dr[j] - delta) * scale;
      }
      for (size_t j = hi; j < width; j++) pr[j] = dr[j] = 0;
    }
    size_t keys = to - from;
    multiply(ds, width, 1, kp + from * dp, dp, block, dp, rows, dp, keys, 0);
    for (size_t r = 0; r < rows; r++)
      memcpy(dq + (i0 + r) * stride, block + r * dp, head_dim * sizeof(float));
    multiply(ds, 1, width, qp + i0 * dp, dp, dkp + from * dp, dp, keys, dp, rows, 1);
    multiply(p, 1, width, gp + i0 * dp, dp, dvp + from * dp, dp, keys, dp, rows, 1);
  }
  for (size_t i = 0; i < tokens; i++) {
    memcpy(dk + i * stride, dkp + i * dp, head_dim * sizeof(float));
    memcpy(dv + i * stride, dvp + i * dp, head_dim * sizeof(float));
  }
}

CK_CLONES void ck_attention_map_f32(const float *q, const float *k, size_t stride, float *map,
                                    size_t tokens, size_t head_dim, float scale, size_t left,
                                    size_t right) {
  for (size_t i = 0; i < tokens; i++) {
    float *row = map + i * tokens;
    size_t lo, hi;
    visible(i, tokens, left, right, 0, &lo, &hi);
    memset(row, 0, tokens * sizeof(float));
    float top = -INFINITY, sum = 0;
    for (size_t j = lo; j < hi; j++) {
      CK_REASSOCIATE
      float dot = 0;
      for (size_t c = 0; c < head_dim; c++) dot += q[i * stride + c] * k[j * stride + c];
      row[j] = dot * scale;
      top = row[j] > top ? row[j] : top;
    }
    for (size_t j = lo; j < hi; j++) row[j] = ck_exp(row[j] - top);
    for (size_t j = lo; j < hi; j++) sum += row[j];
    for (size_t j = lo; j < hi; j++) row[j] /= sum;
  }
}
