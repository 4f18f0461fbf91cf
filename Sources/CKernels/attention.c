#include "ck_softmax.h"

/* Scores and weights are kept transposed, keys x 16 queries: the maximum and the sum of a query stay in one
   lane. All products but those of the gradients by keys and values have packed keys, packed values or their
   transposes as the left operand and a panel of 16 queries as the right one. */

enum {
  BLOCK = 64,  /* queries whose gradients by keys and values are added at once */
  STRIDE = BLOCK + LANES /* of a key's weights for them; a power of two would map to few cache sets */
};
/* The keys in whole tiles that any of the queries i0 ..< i1 attends to. */
CK_INLINE void key_tiles(const ck_attention_shape *h, size_t i0, size_t i1, size_t *from, size_t *to) {
  const size_t step = ck_tile_rows;
  key_range(h, i0, i1, step, from, to);
  *to = smaller(h->keys, (*to + step - 1) / step * step);
}

CK_INLINE int has_window(const ck_attention_shape *h) {
  return h->left < h->queries || h->right < h->keys;
}

/* Stores `value` in s (keys from ..< to, `stride` apart) where a query of i0 ..< i0 + 16 does not attend to a key. */
CK_INLINE void hide(const ck_attention_shape *h, float *s, size_t stride, size_t i0, size_t from,
                    size_t to, float value) {
  const bits lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  if (!has_window(h)) return;
  for (size_t j = from; j < to; j++, s += stride) {
    int first = j > i0 + h->right ? (int)smaller(j - i0 - h->right, LANES) : 0;
    int last = j + h->left < i0 ? -1 : (int)smaller(j + h->left - i0, LANES);
    if (first == 0 && last >= LANES - 1) continue;
    bits seen = (lane >= first) & (lane <= last);
    *(vec *)s = SELECT(seen, *(vec *)s, (vec){0} + value);
  }
}

/* Scores s (keys from ..< to, `stride` apart) of the 16 queries from i0 on as powers of 2; qt (d x 16): these
   queries. */
CK_INLINE void score(const ck_attention_shape *h, const float *q, const float *kr, const float *bias,
                     float *qt, float *s, size_t stride, size_t i0, size_t from, size_t to) {
  const size_t d = h->head_dim;
  const float slope = h->scale * LOG2_E;
  pack_panel(transposed(q, h->q_stride), 0, i0, smaller(LANES, h->queries - i0), d, LANES, qt);
  for (size_t c = 0; c < d * LANES; c++) qt[c] *= slope;
  multiply_packed(kr + from * d, d, 0, qt, LANES, s, stride, to - from, d);
  if (bias)
    for (size_t j = from; j < to; j++) {
      float add = bias[j] * LOG2_E, *row = s + (j - from) * stride;
      for (size_t lane = 0; lane < LANES; lane++) row[lane] += add;
    }
}

CK_CLONES void ck_attention_forward_f32(const float *q, const float *k, const float *v,
                                        const float *bias, float *out, float *lse,
                                        const ck_attention_shape *h) {
  const size_t keys = h->keys, d = h->head_dim, size = keys * d + 8, most = ck_tile_rows;
  float *kr = scratch(2 * size + (keys + 2 * d) * LANES), *vt = kr + size, *s = vt + size;
  float *qt = s + keys * LANES, *o = qt + d * LANES;
  pack_rows(rows_of(k, h->kv_stride), 0, 0, keys, d, most, kr);
  pack_rows(transposed(v, h->kv_stride), 0, 0, d, keys, most, vt);
  for (size_t i0 = 0; i0 < h->queries; i0 += LANES) {
    size_t n = smaller(LANES, h->queries - i0), from, to;
    key_tiles(h, i0, i0 + n, &from, &to);
    score(h, q, kr, bias, qt, s, LANES, i0, from, to);
    hide(h, s, LANES, i0, from, to, -INFINITY);
    vec top = *(vec *)s, sum = {0};
    for (size_t j = 1; j < to - from; j++) top = LARGER(top, *(vec *)(s + j * LANES));
    for (size_t j = 0; j < to - from; j++) {
      vec x = *(vec *)(s + j * LANES) - top;
      raise_2(&x);
      *(vec *)(s + j * LANES) = x;
      sum += x;
    }
    hide(h, s, LANES, i0, from, to, 0);
    multiply_packed(vt, keys, from, s, LANES, o, LANES, d, to - from);
    for (size_t i = 0; i < n; i++) lse[i0 + i] = top[i] * LN_2 + logf(sum[i]);
    vec inverse = 1.0f / sum;
    store_turned(o, &inverse, out + i0 * h->out_stride, h->out_stride, n, d);
  }
}

CK_CLONES void ck_attention_backward_f32(const float *q, const float *k, const float *v,
                                         const float *bias, const float *out, const float *dout,
                                         const float *lse, float *dq, float *dk, float *dv,
                                         const ck_attention_shape *h) {
  const size_t queries = h->queries, keys = h->keys, d = h->head_dim, most = ck_tile_rows;
  const size_t dp = round_up(d), size = keys * d + 8;
  float *kr = scratch(3 * size + 2 * keys * (dp + STRIDE) + 2 * BLOCK * dp + 3 * d * LANES);
  float *vr = kr + size, *kt = vr + size, *dkp = kt + size, *dvp = dkp + keys * dp;
  float *p = dvp + keys * dp, *ds = p + keys * STRIDE, *qp = ds + keys * STRIDE;
  float *gp = qp + BLOCK * dp, *qt = gp + BLOCK * dp, *gt = qt + d * LANES, *ot = gt + d * LANES;
  float *dqt = ot; /* the outputs are read before the gradients are written */
  pack_rows(rows_of(k, h->kv_stride), 0, 0, keys, d, most, kr);
  pack_rows(rows_of(v, h->kv_stride), 0, 0, keys, d, most, vr);
  pack_rows(transposed(k, h->kv_stride), 0, 0, d, keys, most, kt);
  memset(dkp, 0, 2 * keys * dp * sizeof *dkp);
  const vec scale = (vec){0} + h->scale;
  const size_t block = has_window(h) ? LANES : BLOCK;
  for (size_t i0 = 0; i0 < queries; i0 += block) {
    const size_t rows = smaller(block, queries - i0);
    size_t from, to;
    key_tiles(h, i0, i0 + rows, &from, &to);
    for (size_t n = 0; n < rows; n += LANES) {
      const size_t i = i0 + n, count = smaller(LANES, queries - i);
      float *pn = p + n, *dn = ds + n;
      const float *g = dout + i * h->out_stride, *o = out + i * h->out_stride;
      vec shift = (vec){0} + INFINITY, delta = {0}; /* padding queries get weight 0 */
      for (size_t r = 0; r < count; r++) shift[r] = lse[i + r] * LOG2_E;
      pack_panel(transposed(g, h->out_stride), 0, 0, count, d, LANES, gt);
      pack_panel(transposed(o, h->out_stride), 0, 0, count, d, LANES, ot);
      for (size_t c = 0; c < d; c++) delta += *(vec *)(gt + c * LANES) * *(vec *)(ot + c * LANES);
      score(h, q, kr, bias, qt, pn, STRIDE, i, from, to);
      multiply_packed(vr + from * d, d, 0, gt, LANES, dn, STRIDE, to - from, d);
      for (size_t j = 0; j < to - from; j++) {
        vec x = *(vec *)(pn + j * STRIDE) - shift, *slope = (vec *)(dn + j * STRIDE);
        raise_2(&x);
        *(vec *)(pn + j * STRIDE) = x;
        *slope = x * (*slope - delta);
      }
      hide(h, pn, STRIDE, i, from, to, 0);
      hide(h, dn, STRIDE, i, from, to, 0);
      multiply_packed(kt, keys, from, dn, STRIDE, dqt, LANES, d, to - from);
      store_turned(dqt, &scale, dq + i * h->q_stride, h->q_stride, count, d);
    }
    const panels qb = pack_panels(q + i0 * h->q_stride, h->q_stride, qp, rows, d);
    const panels gb = pack_panels(dout + i0 * h->out_stride, h->out_stride, gp, rows, d);
    ck_multiply_f32(ds, STRIDE, 1, qb, dkp + from * dp, dp, to - from, dp, rows, 1);
    ck_multiply_f32(p, STRIDE, 1, gb, dvp + from * dp, dp, to - from, dp, rows, 1);
  }
  for (size_t j = 0; j < keys; j++)
    for (size_t c = 0; c < d; c++) {
      dk[j * h->kv_stride + c] = dkp[j * dp + c] * h->scale;
      dv[j * h->kv_stride + c] = dvp[j * dp + c];
    }
}

CK_CLONES void ck_attention_map_f32(const float *q, const float *k, float *map,
                                    const ck_attention_shape *h) {
  const size_t keys = h->keys;
  for (size_t i = 0; i < h->queries; i++) {
    float *row = map + i * keys;
    size_t lo = h->left >= i ? 0 : i - h->left;
    size_t hi = h->right >= keys - i ? keys : i + h->right + 1;
    memset(row, 0, keys * sizeof(float));
    float top = -INFINITY, sum = 0;
    for (size_t j = lo; j < hi; j++) {
      CK_REASSOCIATE
      float dot = 0;
      for (size_t c = 0; c < h->head_dim; c++) dot += q[i * h->q_stride + c] * k[j * h->kv_stride + c];
      row[j] = dot * h->scale;
      top = row[j] > top ? row[j] : top;
    }
    for (size_t j = lo; j < hi; j++) row[j] = ck_exp(row[j] - top);
    for (size_t j = lo; j < hi; j++) sum += row[j];
    for (size_t j = lo; j < hi; j++) row[j] /= sum;
  }
}
