#include "ck_attention.h"
#include "ck_softmax.h"

enum { BLOCK = 48 };
/* How one head of one batch item lies in memory, and which keys a query sees. */
typedef struct {
  size_t queries, keys, head_dim;
  size_t q_stride, kv_stride, out_stride;
  float scale;
  size_t left, right; /* SIZE_MAX: no window */
  const float *bias;  /* (keys), added to the scaled scores; or NULL */
} head;

CK_INLINE void forward_head(const float *q, const float *k, const float *v, float *out, float *lse,
                            const head *h) {
  const size_t keys = h->keys, head_dim = h->head_dim, stride = h->kv_stride;
  const float slope = h->scale * LOG2_E;
  size_t np = round_up(keys), dp = round_up(head_dim), step = ck_tile_rows;
  float *kt = scratch(head_dim * np + keys * dp + step * (np + dp));
  float *vp = kt + head_dim * np, *s = vp + keys * dp, *o = s + step * np;
  panels kb = pack_panels_transposed(k, stride, kt, keys, head_dim);
  panels vb = pack_panels(v, stride, vp, keys, head_dim);
  for (size_t i0 = 0; i0 < h->queries; i0 += step) {
    size_t rows = smaller(step, h->queries - i0), from, to;
    key_range(i0, i0 + rows, keys, h->left, h->right, &from, &to);
    size_t width = round_up(to - from);
    float sum[MAX_TILE_ROWS];
    multiply_panels(q + i0 * h->q_stride, h->q_stride, 1, from_column(kb, from), s, width, rows,
                    width, head_dim, 0);
    for (size_t r = 0; r < rows; r++) {
      float *row = s + r * width;
      size_t lo, hi;
      visible(i0 + r, keys, h->left, h->right, from, &lo, &hi);
      if (h->bias)
        for (size_t j = lo; j < hi; j++) row[j] += h->bias[from + j] / h->scale;
      for (size_t j = 0; j < lo; j++) row[j] = -INFINITY;
      for (size_t j = hi; j < width; j++) row[j] = -INFINITY;
      float top = row_max(row, width);
      for (size_t j = 0; j < width; j++) row[j] = ck_exp2((row[j] - top) * slope);
      for (size_t j = 0; j < lo; j++) row[j] = 0;
      for (size_t j = hi; j < width; j++) row[j] = 0;
      sum[r] = row_sum(row, width);
      lse[i0 + r] = top * h->scale + logf(sum[r]);
    }
    multiply_panels(s, width, 1, from_row(vb, from), o, dp, rows, dp, to - from, 0);
    for (size_t r = 0; r < rows; r++) {
      float *to_row = out + (i0 + r) * h->out_stride, inverse = 1.0f / sum[r];
      for (size_t c = 0; c < head_dim; c++) to_row[c] = o[r * dp + c] * inverse;
    }
  }
}

CK_INLINE void backward_head(const float *q, const float *k, const float *v, const float *out,
                             const float *dout, const float *lse, float *dq, float *dk, float *dv,
                             const head *h) {
  const size_t queries = h->queries, keys = h->keys, head_dim = h->head_dim;
  const float scale = h->scale, slope = scale * LOG2_E;
  size_t np = round_up(keys), dp = round_up(head_dim);
  float *kt = scratch(2 * head_dim * np + 3 * keys * dp + 2 * BLOCK * np + 3 * BLOCK * dp);
  float *vt = kt + head_dim * np, *kp = vt + head_dim * np, *dkp = kp + keys * dp;
  float *dvp = dkp + keys * dp, *p = dvp + keys * dp, *ds = p + BLOCK * np;
  float *block = ds + BLOCK * np, *qp = block + BLOCK * dp, *gp = qp + BLOCK * dp;
  panels kb = pack_panels_transposed(k, h->kv_stride, kt, keys, head_dim);
  panels vb = pack_panels_transposed(v, h->kv_stride, vt, keys, head_dim);
  panels kr = pack_panels(k, h->kv_stride, kp, keys, head_dim);
  memset(dkp, 0, 2 * keys * dp * sizeof(float));
  for (size_t i0 = 0; i0 < queries; i0 += BLOCK) {
    size_t rows = smaller(BLOCK, queries - i0), from, to;
    key_range(i0, i0 + rows, keys, h->left, h->right, &from, &to);
    size_t width = round_up(to - from), seen = to - from;
    const float *qi = q + i0 * h->q_stride, *gi = dout + i0 * h->out_stride;
    panels qb = pack_panels(qi, h->q_stride, qp, rows, head_dim);
    panels gb = pack_panels(gi, h->out_stride, gp, rows, head_dim);
    multiply_panels(qi, h->q_stride, 1, from_column(kb, from), p, width, rows, width, head_dim, 0);
    multiply_panels(gi, h->out_stride, 1, from_column(vb, from), ds, width, rows, width, head_dim,
                    0);
    for (size_t r = 0; r < rows; r++) {
      float *pr = p + r * width, *dr = ds + r * width;
      const float *g = gi + r * h->out_stride, *o = out + (i0 + r) * h->out_stride;
      size_t lo, hi;
      visible(i0 + r, keys, h->left, h->right, from, &lo, &hi);
      if (h->bias)
        for (size_t j = lo; j < hi; j++) pr[j] += h->bias[from + j] / scale;
      float delta = 0, shift = lse[i0 + r] * LOG2_E;
      {
        CK_REASSOCIATE
        for (size_t c = 0; c < head_dim; c++) delta += g[c] * o[c];
      }
      for (size_t j = 0; j < width; j++) {
        pr[j] = ck_exp2(pr[j] * slope - shift);
        dr[j] = pr[j] * (dr[j] - delta) * scale;
      }
      for (size_t j = 0; j < lo; j++) pr[j] = dr[j] = 0;
      for (size_t j = hi; j < width; j++) pr[j] = dr[j] = 0;
    }
    multiply_panels(ds, width, 1, from_row(kr, from), block, dp, rows, dp, seen, 0);
    for (size_t r = 0; r < rows; r++)
      memcpy(dq + (i0 + r) * h->q_stride, block + r * dp, head_dim * sizeof(float));
    multiply_panels(ds, 1, width, qb, dkp + from * dp, dp, seen, dp, rows, 1);
    multiply_panels(p, 1, width, gb, dvp + from * dp, dp, seen, dp, rows, 1);
  }
  for (size_t i = 0; i < keys; i++) {
    memcpy(dk + i * h->kv_stride, dkp + i * dp, head_dim * sizeof(float));
    memcpy(dv + i * h->kv_stride, dvp + i * dp, head_dim * sizeof(float));
  }
}

CK_INLINE head self_head(size_t stride, size_t out_stride, size_t tokens, size_t head_dim,
                         float scale, size_t left, size_t right) {
  return (head){tokens, tokens, head_dim, stride, stride, out_stride, scale, left, right, NULL};
}

CK_CLONES void ck_attention_forward_f32(const float *q, const float *k, const float *v,
                                        size_t stride, float *out, size_t out_stride, float *lse,
                                        size_t tokens, size_t head_dim, float scale, size_t left,
                                        size_t right) {
  head h = self_head(stride, out_stride, tokens, head_dim, scale, left, right);
  forward_head(q, k, v, out, lse, &h);
}

CK_CLONES void ck_attention_backward_f32(const float *q, const float *k, const float *v,
                                         size_t stride, const float *out, const float *dout,
                                         size_t out_stride, const float *lse, float *dq, float *dk,
                                         float *dv, size_t tokens, size_t head_dim, float scale,
                                         size_t left, size_t right) {
  head h = self_head(stride, out_stride, tokens, head_dim, scale, left, right);
  backward_head(q, k, v, out, dout, lse, dq, dk, dv, &h);
}

CK_INLINE head cross_head(const ck_cross_attention_shape *s, const float *bias) {
  return (head){s->queries,    s->keys,  s->head_dim, s->q_stride, s->kv_stride,
                s->out_stride, s->scale, SIZE_MAX,    SIZE_MAX,    bias};
}

CK_CLONES void ck_cross_attention_forward_f32(const float *q, const float *k, const float *v,
                                              const float *bias, float *out, float *lse,
                                              const ck_cross_attention_shape *shape) {
  head h = cross_head(shape, bias);
  forward_head(q, k, v, out, lse, &h);
}

CK_CLONES void ck_cross_attention_backward_f32(const float *q, const float *k, const float *v,
                                               const float *bias, const float *out,
                                               const float *dout, const float *lse, float *dq,
                                               float *dk, float *dv,
                                               const ck_cross_attention_shape *shape) {
  head h = cross_head(shape, bias);
  backward_head(q, k, v, out, dout, lse, dq, dk, dv, &h);
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
