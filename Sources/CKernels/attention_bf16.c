#include "ck_softmax.h"

enum { QUERIES = 24, GRADIENT_QUERIES = 64 };

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

/* Columns of query i's row that it attends to, relative to `from`. */
CK_INLINE void visible(const ck_attention_shape *s, size_t i, size_t from, size_t *lo, size_t *hi) {
  key_range(s, i, i + 1, 1, lo, hi);
  *lo = *lo < from ? 0 : *lo - from;
  *hi -= from;
}

/* A bfloat16 that may alias a 32-bit word. */
typedef uint16_t half __attribute__((may_alias));

/* The columns of the panels are rows of x (n, pairs), those beyond n zero. */
CK_INLINE panels pack_words_transposed(const uint32_t *x, size_t stride, uint32_t *out,
                                            size_t n, size_t pairs) {
  for (size_t j = 0; j < n; j += LANES)
    pack_panel(transposed((const float *)x, stride), 0, j, smaller(LANES, n - j), pairs, LANES,
               (float *)out + j * pairs);
  return (panels){(const float *)out, LANES, pairs * LANES};
}

/* The pairs of the panels are neighbouring rows of x (n, d), columns beyond d and a row after an odd
   number of them zero. */
CK_INLINE panels pack_row_pairs(const half *x, size_t stride, uint32_t *out, size_t n,
                                     size_t d) {
  const size_t pairs = (n + 1) / 2;
  for (size_t j = 0; j < d; j += LANES) {
    uint32_t *to = out + j * pairs;
    const size_t width = smaller(LANES, d - j);
    for (size_t p = 0; p < pairs; p++, to += LANES) {
      const half *first = x + 2 * p * stride + j, *second = first + stride;
      if (width == LANES && 2 * p + 1 < n) {
        for (size_t c = 0; c < LANES; c++) to[c] = first[c] | (uint32_t)second[c] << 16;
      } else {
        for (size_t c = 0; c < width; c++)
          to[c] = first[c] | (2 * p + 1 < n ? (uint32_t)second[c] << 16 : 0);
        for (size_t c = width; c < LANES; c++) to[c] = 0;
      }
    }
  }
  return (panels){(const float *)out, LANES, pairs * LANES};
}

CK_INLINE void round_row(const float *x, half *y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = (half)ck_bfloat16_bits(x[i]);
}

/* Neighbouring rows of x (rows, width) as words, zero after an odd number of rows. */
CK_INLINE void round_row_pairs(const float *x, size_t width, uint32_t *y, size_t rows) {
  for (size_t r = 0; r < rows; r += 2, x += 2 * width, y += width)
    if (r + 1 < rows)
      for (size_t j = 0; j < width; j++)
        y[j] = ck_bfloat16_bits(x[j]) | ck_bfloat16_bits(x[width + j]) << 16;
    else
      for (size_t j = 0; j < width; j++) y[j] = ck_bfloat16_bits(x[j]);
}

CK_CLONES void ck_attention_forward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                         uint16_t *out, float *lse, const ck_attention_shape *s,
                                         int native) {
  const size_t keys = s->keys, pairs = s->head_dim / 2, np = round_up(keys);
  const size_t dp = round_up(s->head_dim), rows_of_v = (keys + 1) / 2;
  const float slope = s->scale * LOG2_E;
  uint32_t *kt = (uint32_t *)scratch(pairs * np + rows_of_v * dp + QUERIES * (np + np / 2 + dp));
  uint32_t *vp = kt + pairs * np, *weights = vp + rows_of_v * dp;
  float *scores = (float *)(weights + QUERIES * np / 2), *o = scores + QUERIES * np;
  const panels kb = pack_words_transposed((const uint32_t *)k, s->q_stride / 2, kt, keys, pairs);
  const panels vb = pack_row_pairs(v, s->q_stride, vp, keys, s->head_dim);
  for (size_t i0 = 0; i0 < s->keys; i0 += QUERIES) {
    size_t rows = smaller(QUERIES, s->keys - i0), from, to;
    key_range(s, i0, i0 + rows, LANES, &from, &to);
    const size_t width = round_up(to - from);
    float sum[QUERIES];
    ck_multiply_pairs((const uint32_t *)(q + i0 * s->q_stride), s->q_stride / 2, 1,
                      panels_from(kb, 0, from), scores, width, rows, width, pairs, 0, native);
    for (size_t r = 0; r < rows; r++) {
      float *row = scores + r * width;
      size_t lo, hi;
      visible(s, i0 + r, from, &lo, &hi);
      for (size_t j = 0; j < lo; j++) row[j] = -INFINITY;
      for (size_t j = hi; j < width; j++) row[j] = -INFINITY;
      const float top = row_max(row, width);
      for (size_t j = 0; j < width; j++) row[j] = ck_exp2((row[j] - top) * slope);
      for (size_t j = 0; j < lo; j++) row[j] = 0;
      for (size_t j = hi; j < width; j++) row[j] = 0;
      sum[r] = row_sum(row, width);
      lse[i0 + r] = top * s->scale + logf(sum[r]);
      round_row(row, (half *)(weights + r * width / 2), width);
    }
    ck_multiply_pairs(weights, width / 2, 1, panels_from(vb, from / 2, 0), o, dp, rows, dp,
                      (to - from + 1) / 2, 0, native);
    for (size_t r = 0; r < rows; r++) {
      const float inverse = 1.0f / sum[r];
      for (size_t c = 0; c < s->head_dim; c++) o[r * dp + c] *= inverse;
      round_row(o + r * dp, out + (i0 + r) * s->out_stride, s->head_dim);
    }
  }
}

CK_CLONES void ck_attention_backward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                          const uint16_t *out, const float *dout, const float *lse,
                                          float *dq, float *dk, float *dv, const ck_attention_shape *s,
                                          int native) {
  const size_t keys = s->keys, head_dim = s->head_dim, pairs = head_dim / 2;
  const size_t np = round_up(keys), dp = round_up(head_dim), rows_of_k = (keys + 1) / 2;
  const float slope = s->scale * LOG2_E;
  uint32_t *kt = (uint32_t *)scratch(2 * pairs * np + rows_of_k * dp + 2 * keys * dp +
                                     3 * GRADIENT_QUERIES * np +
                                     GRADIENT_QUERIES * (dp + dp / 2 + dp));
  uint32_t *vt = kt + pairs * np, *kp = vt + pairs * np;
  float *dkp = (float *)(kp + rows_of_k * dp), *dvp = dkp + keys * dp;
  float *p = dvp + keys * dp, *ds = p + GRADIENT_QUERIES * np;
  float *block = ds + GRADIENT_QUERIES * np;
  uint32_t *halves = (uint32_t *)(block + GRADIENT_QUERIES * dp);
  uint32_t *turned = halves + GRADIENT_QUERIES * np / 2;
  uint32_t *g = turned + GRADIENT_QUERIES * np / 2;
  uint32_t *qp = g + GRADIENT_QUERIES * dp / 2, *gp = qp + GRADIENT_QUERIES * dp / 2;
  const panels kb = pack_words_transposed((const uint32_t *)k, s->q_stride / 2, kt, keys, pairs);
  const panels vb = pack_words_transposed((const uint32_t *)v, s->q_stride / 2, vt, keys, pairs);
  const panels kr = pack_row_pairs(k, s->q_stride, kp, keys, head_dim);
  memset(dkp, 0, 2 * keys * dp * sizeof(float));
  for (size_t i0 = 0; i0 < s->keys; i0 += GRADIENT_QUERIES) {
    size_t rows = smaller(GRADIENT_QUERIES, s->keys - i0), from, to;
    key_range(s, i0, i0 + rows, LANES, &from, &to);
    const size_t width = round_up(to - from), seen = to - from, depth = (rows + 1) / 2;
    const uint16_t *qi = q + i0 * s->q_stride;
    const float *gi = dout + i0 * s->out_stride;
    for (size_t r = 0; r < rows; r++)
      round_row(gi + r * s->out_stride, (half *)(g + r * pairs), head_dim);
    const panels qb = pack_row_pairs(qi, s->q_stride, qp, rows, head_dim);
    const panels gb = pack_row_pairs((const half *)g, head_dim, gp, rows, head_dim);
    ck_multiply_pairs((const uint32_t *)qi, s->q_stride / 2, 1, panels_from(kb, 0, from), p, width,
                      rows, width, pairs, 0, native);
    ck_multiply_pairs(g, pairs, 1, panels_from(vb, 0, from), ds, width, rows, width, pairs, 0,
                      native);
    for (size_t r = 0; r < rows; r++) {
      float *pr = p + r * width, *dr = ds + r * width, delta = 0;
      const uint16_t *o = out + (i0 + r) * s->out_stride;
      const float *gr = gi + r * s->out_stride, shift = lse[i0 + r] * LOG2_E;
      size_t lo, hi;
      visible(s, i0 + r, from, &lo, &hi);
      {
        CK_REASSOCIATE
        for (size_t c = 0; c < head_dim; c++) delta += gr[c] * ck_from_bfloat16(o[c]);
      }
      for (size_t j = 0; j < width; j++) {
        pr[j] = ck_exp2(pr[j] * slope - shift);
        dr[j] = pr[j] * (dr[j] - delta) * s->scale;
      }
      for (size_t j = 0; j < lo; j++) pr[j] = dr[j] = 0;
      for (size_t j = hi; j < width; j++) pr[j] = dr[j] = 0;
    }
    for (size_t r = 0; r < rows; r++)
      round_row(ds + r * width, (half *)(halves + r * width / 2), width);
    ck_multiply_pairs(halves, width / 2, 1, panels_from(kr, from / 2, 0), block, dp, rows, dp,
                      (seen + 1) / 2, 0, native);
    for (size_t r = 0; r < rows; r++)
      memcpy(dq + (i0 + r) * s->q_stride, block + r * dp, head_dim * sizeof(float));
    round_row_pairs(ds, width, turned, rows);
    ck_multiply_pairs(turned, 1, width, qb, dkp + from * dp, dp, seen, dp, depth, 1, native);
    round_row_pairs(p, width, turned, rows);
    ck_multiply_pairs(turned, 1, width, gb, dvp + from * dp, dp, seen, dp, depth, 1, native);
  }
  for (size_t i = 0; i < keys; i++) {
    memcpy(dk + i * s->q_stride, dkp + i * dp, head_dim * sizeof(float));
    memcpy(dv + i * s->q_stride, dvp + i * dp, head_dim * sizeof(float));
  }
}

