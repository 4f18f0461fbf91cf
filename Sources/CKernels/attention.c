#include "ck_attention.h"
#include "ck_packed.h"

/* Scores and weights are kept transposed, keys x 16 queries: a query's largest score and its sum
   stay in its lane. All products but those of `add_panels` have packed keys, values or their
   transposes on the left and a panel of 16 queries on the right. */

enum {
  DEPTH = 256, /* keys whose weights for 16 queries stay in the first cache */
  BLOCK = 64,  /* queries whose gradients by keys and values are added at once */
};
#define LOG2_E 1.44269504088896341f
#define LN_2 0.69314718055994531f

typedef int32_t bits __attribute__((vector_size(64), aligned(4)));

/* A vector's lanes from x where the mask's are set, from y elsewhere. */
#define SELECT(mask, x, y) ((vec)(((mask) & (bits)(x)) | (~(mask) & (bits)(y))))
#define LARGER(x, y) SELECT((x) > (y), x, y)

/* How one head of one batch item lies in memory, and which keys a query sees. */
typedef struct {
  size_t queries, keys, head_dim;
  size_t q_stride, kv_stride, out_stride;
  float scale;
  size_t left, right; /* at least `queries` and `keys`: no window */
  const float *bias;  /* (keys), added to the scaled scores; or NULL */
} head;

/* Keys that some of the queries i0 ..< i1 see, in whole tiles. */
CK_INLINE void key_range(const head *h, size_t i0, size_t i1, size_t *from, size_t *to) {
  const size_t step = ck_tile_rows, keys = h->keys;
  size_t low = h->left >= i0 ? 0 : i0 - h->left;
  size_t high = h->right >= keys || i1 + h->right > keys ? keys : i1 + h->right;
  *from = low / step * step;
  *to = smaller(keys, (high + step - 1) / step * step);
}

/* Stores `value` where a query of i0 ..< i0 + 16 does not see a key of from ..< to. */
CK_INLINE void hide(const head *h, float *s, size_t i0, size_t from, size_t to, float value) {
  const bits lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  if (h->left >= h->queries && h->right >= h->keys) return;
  for (size_t j = from; j < to; j++, s += LANES) {
    int first = j > i0 + h->right ? (int)smaller(j - i0 - h->right, LANES) : 0;
    int last = j + h->left < i0 ? -1 : (int)smaller(j + h->left - i0, LANES);
    if (first == 0 && last >= LANES - 1) continue;
    bits seen = (lane >= first) & (lane <= last);
    *(vec *)s = SELECT(seen, *(vec *)s, (vec){0} + value);
  }
}

/* C (m x 16) = A B; the tiles of A are `length` deep and count from column `first` on. */
CK_INLINE void multiply_packed(const float *a, size_t length, size_t first, const float *b,
                               float *c, size_t m, size_t depth) {
#define TILE(ROWS)                                                                                 \
  packed_tile(ROWS, 1, a + i * length + (first + p) * ROWS, b + p * LANES, c + i * LANES, LANES,   \
              smaller(DEPTH, depth - p), p > 0)
  for (size_t p = 0; p < depth; p += DEPTH) CK_EACH_TILE(m, ck_tile_rows, i, TILE)
#undef TILE
}

CK_INLINE matrix transposed(const float *data, size_t row) { return (matrix){data, row, 1}; }
CK_INLINE matrix rows_of(const float *data, size_t row) { return (matrix){data, row, 0}; }

/* Scores (keys from ..< to, 16 queries from i0 on) as powers of 2; qt (d x 16): the queries. */
CK_INLINE void score(const head *h, const float *q, const float *kr, float *qt, float *s, size_t i0,
                     size_t from, size_t to) {
  const size_t d = h->head_dim;
  const float slope = h->scale * LOG2_E;
  pack_panel(transposed(q, h->q_stride), 0, i0, smaller(LANES, h->queries - i0), d, LANES, qt);
  for (size_t c = 0; c < d * LANES; c++) qt[c] *= slope;
  multiply_packed(kr + from * d, d, 0, qt, s, to - from, d);
  if (h->bias)
    for (size_t j = from; j < to; j++) {
      float bias = h->bias[j] * LOG2_E, *row = s + (j - from) * LANES;
      for (size_t lane = 0; lane < LANES; lane++) row[lane] += bias;
    }
}

/* 2 to the power of every lane to 1e-7 relative, up to 126; stays at 2^-125 below that. */
CK_INLINE void raise_2(vec *power) {
  const vec least = (vec){0} - 125.0f, x = LARGER(least, *power);
  vec shifted = x + 12582912.0f; /* 1.5 * 2^23: rounds to nearest */
  vec r = x - (shifted - 12582912.0f);
  vec p = (vec){0} + 1.3276471960e-3f;
  p = p * r + 9.6755415026e-3f;
  p = p * r + 5.5507132751e-2f;
  p = p * r + 2.4022119721e-1f;
  p = p * r + 6.9314696706e-1f;
  p = p * r + 1.0f;
  *power = (vec)((bits)p + ((bits)shifted << 23));
}

/* x (d x 16) turned into rows of `out`, `n` of them, column by column times `factor`. */
CK_INLINE void store_turned(float *x, const vec *factor, float *out, size_t stride, size_t n,
                            size_t d) {
  for (size_t c = 0; c < d; c++) *(vec *)(x + c * LANES) *= *factor;
  size_t done = 0;
  if (n == LANES)
    for (; done + 8 <= d; done += 8)
      for (size_t i = 0; i < LANES; i += 8)
        transpose_8(x + done * LANES + i, LANES, 8, out + i * stride + done, stride);
  for (size_t i = 0; i < n; i++)
    for (size_t c = done; c < d; c++) out[i * stride + c] = x[c * LANES + i];
}

CK_CLONES static void forward(const float *q, const float *k, const float *v, float *out,
                              float *lse, const head *h) {
  const size_t keys = h->keys, d = h->head_dim, size = keys * d + 8, most = ck_tile_rows;
  float *kr = scratch(2 * size + (keys + 2 * d) * LANES), *vt = kr + size, *s = vt + size;
  float *qt = s + keys * LANES, *o = qt + d * LANES;
  pack_rows(rows_of(k, h->kv_stride), 0, 0, keys, d, most, kr);
  pack_rows(transposed(v, h->kv_stride), 0, 0, d, keys, most, vt);
  for (size_t i0 = 0; i0 < h->queries; i0 += LANES) {
    size_t n = smaller(LANES, h->queries - i0), from, to;
    key_range(h, i0, i0 + n, &from, &to);
    score(h, q, kr, qt, s, i0, from, to);
    hide(h, s, i0, from, to, -INFINITY);
    vec top = *(vec *)s, sum = {0};
    for (size_t j = 1; j < to - from; j++) top = LARGER(top, *(vec *)(s + j * LANES));
    for (size_t j = 0; j < to - from; j++) {
      vec x = *(vec *)(s + j * LANES) - top;
      raise_2(&x);
      *(vec *)(s + j * LANES) = x;
      sum += x;
    }
    hide(h, s, i0, from, to, 0);
    multiply_packed(vt, keys, from, s, o, d, to - from);
    for (size_t i = 0; i < n; i++) lse[i0 + i] = top[i] * LN_2 + logf(sum[i]);
    vec inverse = 1.0f / sum;
    store_turned(o, &inverse, out + i0 * h->out_stride, h->out_stride, n, d);
  }
}

/* C (rows x 16) += the sum over `count` panels, `panel` apart, of A (rows x 16) B (16 x 16). */
CK_INLINE void add_tile(const int rows, const float *a, size_t panel, size_t count, const float *b,
                        float *c) {
  vec sum[MAX_TILE_ROWS];
  CK_UNROLL for (int i = 0; i < rows; i++) sum[i] = *(vec *)(c + i * LANES);
  for (size_t n = 0; n < count; n++, a += panel) {
    _Pragma("clang loop unroll_count(4)") for (int p = 0; p < LANES; p++, b += LANES) {
      vec row = *(const vec *)b;
      CK_UNROLL for (int i = 0; i < rows; i++) sum[i] += a[i * LANES + p] * row;
    }
  }
  CK_UNROLL for (int i = 0; i < rows; i++) *(vec *)(c + i * LANES) = sum[i];
}

/* The same with m rows. */
CK_INLINE void add_panels(const float *a, size_t panel, size_t count, const float *b, float *c,
                          size_t m) {
#define TILE(ROWS) add_tile(ROWS, a + i * LANES, panel, count, b, c + i * LANES)
  CK_EACH_TILE(m, ck_tile_rows, i, TILE)
#undef TILE
}

CK_CLONES static void backward(const float *q, const float *k, const float *v, const float *out,
                               const float *dout, const float *lse, float *dq, float *dk, float *dv,
                               const head *h) {
  const size_t queries = h->queries, keys = h->keys, d = h->head_dim, most = ck_tile_rows;
  const size_t dp = round_up(d), size = keys * d + 8, panel = keys * LANES;
  float *kr = scratch(3 * size + 2 * keys * dp + 2 * BLOCK * (keys + dp) + 3 * d * LANES);
  float *vr = kr + size, *kt = vr + size, *dkp = kt + size, *dvp = dkp + keys * dp;
  float *p = dvp + keys * dp, *ds = p + BLOCK * keys, *qp = ds + BLOCK * keys;
  float *gp = qp + BLOCK * dp, *qt = gp + BLOCK * dp, *gt = qt + d * LANES, *ot = gt + d * LANES;
  float *dqt = ot; /* the outputs are used before the gradients are there */
  pack_rows(rows_of(k, h->kv_stride), 0, 0, keys, d, most, kr);
  pack_rows(rows_of(v, h->kv_stride), 0, 0, keys, d, most, vr);
  pack_rows(transposed(k, h->kv_stride), 0, 0, d, keys, most, kt);
  memset(dkp, 0, 2 * keys * dp * sizeof *dkp);
  const vec scale = (vec){0} + h->scale;
  const size_t block = h->left < queries || h->right < keys ? LANES : BLOCK;
  for (size_t i0 = 0; i0 < queries; i0 += block) {
    const size_t rows = smaller(block, queries - i0), panels = (rows + LANES - 1) / LANES;
    const size_t depth = panels * LANES;
    size_t from, to;
    key_range(h, i0, i0 + rows, &from, &to);
    for (size_t n = 0; n < panels; n++) {
      const size_t i = i0 + n * LANES, count = smaller(LANES, queries - i);
      float *pn = p + n * panel, *dn = ds + n * panel;
      const float *g = dout + i * h->out_stride, *o = out + i * h->out_stride;
      vec shift = (vec){0} + INFINITY, delta = {0}; /* queries that are not there weigh nothing */
      for (size_t r = 0; r < count; r++) shift[r] = lse[i + r] * LOG2_E;
      pack_panel(transposed(g, h->out_stride), 0, 0, count, d, LANES, gt);
      pack_panel(transposed(o, h->out_stride), 0, 0, count, d, LANES, ot);
      for (size_t c = 0; c < d; c++) delta += *(vec *)(gt + c * LANES) * *(vec *)(ot + c * LANES);
      score(h, q, kr, qt, pn, i, from, to);
      multiply_packed(vr + from * d, d, 0, gt, dn, to - from, d);
      for (size_t j = 0; j < to - from; j++) {
        vec x = *(vec *)(pn + j * LANES) - shift, *slope = (vec *)(dn + j * LANES);
        raise_2(&x);
        *(vec *)(pn + j * LANES) = x;
        *slope = x * (*slope - delta);
      }
      hide(h, pn, i, from, to, 0);
      hide(h, dn, i, from, to, 0);
      multiply_packed(kt, keys, from, dn, dqt, d, to - from);
      store_turned(dqt, &scale, dq + i * h->q_stride, h->q_stride, count, d);
    }
    memset(qp, 0, 2 * BLOCK * dp * sizeof *qp);
    for (size_t c = 0; c < d; c += LANES) {
      const size_t width = smaller(LANES, d - c);
      float *qc = qp + c * depth, *gc = gp + c * depth;
      pack_panel(rows_of(q + i0 * h->q_stride, h->q_stride), 0, c, width, rows, LANES, qc);
      pack_panel(rows_of(dout + i0 * h->out_stride, h->out_stride), 0, c, width, rows, LANES, gc);
      add_panels(ds, panel, panels, qc, dkp + c * keys + from * LANES, to - from);
      add_panels(p, panel, panels, gc, dvp + c * keys + from * LANES, to - from);
    }
  }
  for (size_t j = 0; j < keys; j++)
    for (size_t c = 0; c < d; c += LANES)
      for (size_t lane = 0; lane < smaller(LANES, d - c); lane++) {
        dk[j * h->kv_stride + c + lane] = dkp[c * keys + j * LANES + lane] * h->scale;
        dv[j * h->kv_stride + c + lane] = dvp[c * keys + j * LANES + lane];
      }
}

static head self_head(size_t stride, size_t out_stride, size_t tokens, size_t head_dim, float scale,
                      size_t left, size_t right) {
  return (head){tokens, tokens, head_dim, stride, stride, out_stride, scale, smaller(left, tokens),
                smaller(right, tokens), NULL};
}

void ck_attention_forward_f32(const float *q, const float *k, const float *v, size_t stride,
                              float *out, size_t out_stride, float *lse, size_t tokens,
                              size_t head_dim, float scale, size_t left, size_t right) {
  head h = self_head(stride, out_stride, tokens, head_dim, scale, left, right);
  forward(q, k, v, out, lse, &h);
}

void ck_attention_backward_f32(const float *q, const float *k, const float *v, size_t stride,
                               const float *out, const float *dout, size_t out_stride,
                               const float *lse, float *dq, float *dk, float *dv, size_t tokens,
                               size_t head_dim, float scale, size_t left, size_t right) {
  head h = self_head(stride, out_stride, tokens, head_dim, scale, left, right);
  backward(q, k, v, out, dout, lse, dq, dk, dv, &h);
}

static head cross_head(const ck_cross_attention_shape *s, const float *bias) {
  return (head){s->queries,    s->keys,  s->head_dim, s->q_stride, s->kv_stride,
                s->out_stride, s->scale, s->queries,  s->keys,     bias};
}

void ck_cross_attention_forward_f32(const float *q, const float *k, const float *v,
                                    const float *bias, float *out, float *lse,
                                    const ck_cross_attention_shape *shape) {
  head h = cross_head(shape, bias);
  forward(q, k, v, out, lse, &h);
}

void ck_cross_attention_backward_f32(const float *q, const float *k, const float *v,
                                     const float *bias, const float *out, const float *dout,
                                     const float *lse, float *dq, float *dk, float *dv,
                                     const ck_cross_attention_shape *shape) {
  head h = cross_head(shape, bias);
  backward(q, k, v, out, dout, lse, dq, dk, dv, &h);
}

CK_CLONES void ck_attention_map_f32(const float *q, const float *k, size_t stride, float *map,
                                    size_t tokens, size_t head_dim, float scale, size_t left,
                                    size_t right) {
  for (size_t i = 0; i < tokens; i++) {
    float *row = map + i * tokens;
    size_t lo = left >= i ? 0 : i - left, hi = right >= tokens - i ? tokens : i + right + 1;
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
