/* Attention on bfloat16 with float32 sums. Included once for CPUs that have dot products of pairs
   (PAIRS_NATIVE), once for others; PAIRS(name) names what is defined, PAIRS_ENTRY marks what others call.

   Every product has pairs of neighbours along its common axis, two bfloat16 in a word, the first in the
   lower half. */

enum {
#ifdef PAIRS_NATIVE
  PAIRS(TILE_ROWS) = 12,
  PAIRS(TILE_VECS) = 2,
#else
  PAIRS(TILE_ROWS) = 4,
  PAIRS(TILE_VECS) = 1,
#endif
};

/* Adds the dot products of a pair with 16 pairs. */
CK_INLINE void PAIRS(add_dots)(vec *sum, uint32_t a, const words *b) {
#ifdef PAIRS_NATIVE
  *sum = (vec)_mm512_dpbf16_ps((__m512)*sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)*b);
#else
  uint32_t low = a << 16, high = a & 0xffff0000;
  float first, second;
  memcpy(&first, &low, 4);
  memcpy(&second, &high, 4);
  *sum += first * (vec)(*b << 16) + second * (vec)(*b & 0xffff0000);
#endif
}

/* C (ROWS x 16 VECS) (+)= A B; three rows share an address register. */
#define PAIRS_TILE(ROWS, VECS)                                                                     \
  {                                                                                                \
    vec sum[ROWS][VECS];                                                                           \
    const uint32_t *at[(ROWS + 2) / 3], *y = b.data;                                               \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < (ROWS + 2) / 3; i++) at[i] =            \
        a + (size_t)(3 * i) * ars;                                                                 \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                              \
        _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) sum[i][v] =              \
            add ? *(const vec *)(c + (size_t)i * ldc + v * LANES) : (vec){0};                      \
    for (size_t p = 0; p < depth; p++, y += LANES) {                                               \
      words row[VECS];                                                                             \
      _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) row[v] =                   \
          *(const words *)(y + (size_t)v * b.panel);                                               \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                            \
          _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++)                        \
              PAIRS(add_dots)(&sum[i][v], at[i / 3][(size_t)(i % 3) * ars], &row[v]);              \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < (ROWS + 2) / 3; i++) {                \
        at[i] += acs;                                                                              \
        __asm__("" : "+r"(at[i])); /* keeps the addresses in registers of their own */             \
      }                                                                                            \
    }                                                                                              \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++)                              \
        _Pragma("clang loop unroll(full)") for (int v = 0; v < VECS; v++) *(                       \
            vec *)(c + (size_t)i * ldc + v * LANES) = sum[i][v];                                   \
  }

#define PAIRS_TILES(VECS)                                                                          \
  if (rows == 12) PAIRS_TILE(12, VECS)                                                             \
  else if (rows == 8) PAIRS_TILE(8, VECS)                                                          \
  else if (rows == 4) PAIRS_TILE(4, VECS)                                                          \
  else if (rows == 2) PAIRS_TILE(2, VECS)                                                          \
  else PAIRS_TILE(1, VECS)

/* C (m x n) (+)= A (m x 2 depth) B (2 depth x n), n a multiple of 16; pair p of row i of A at
   a[i * ars + p * acs]. */
CK_INLINE void PAIRS(multiply)(const uint32_t *a0, size_t ars, size_t acs, pair_panels b0, float *c0,
                               size_t ldc, size_t m, size_t n, size_t depth, int add) {
  for (size_t i = 0, rows; i < m; i += rows) {
    const size_t left = m - i;
    rows = smaller(left, PAIRS(TILE_ROWS));
    if (rows < 12) rows = rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    const uint32_t *a = a0 + i * ars;
    size_t j = 0;
    for (; j + PAIRS(TILE_VECS) * LANES <= n; j += PAIRS(TILE_VECS) * LANES) {
      const pair_panels b = panels_from_column(b0, j);
      float *c = c0 + i * ldc + j;
      PAIRS_TILES(PAIRS(TILE_VECS))
    }
    for (; j < n; j += LANES) {
      const pair_panels b = panels_from_column(b0, j);
      float *c = c0 + i * ldc + j;
      PAIRS_TILES(1)
    }
  }
}

PAIRS_ENTRY void PAIRS(ck_attention_forward)(const uint16_t *q, const uint16_t *k,
                                             const uint16_t *v, uint16_t *out, float *lse,
                                             const ck_rounded_attention_shape *s) {
  const size_t keys = s->tokens, pairs = s->head_dim / 2, np = round_up(keys);
  const size_t dp = round_up(s->head_dim), rows_of_v = (keys + 1) / 2;
  const float slope = s->scale * LOG2_E;
  uint32_t *kt = (uint32_t *)scratch(pairs * np + rows_of_v * dp + QUERIES * (np + np / 2 + dp));
  uint32_t *vp = kt + pairs * np, *weights = vp + rows_of_v * dp;
  float *scores = (float *)(weights + QUERIES * np / 2), *o = scores + QUERIES * np;
  const pair_panels kb = pack_words_transposed((const uint32_t *)k, s->stride / 2, kt, keys, pairs);
  const pair_panels vb = pack_row_pairs(v, s->stride, vp, keys, s->head_dim);
  for (size_t i0 = 0; i0 < s->tokens; i0 += QUERIES) {
    size_t rows = smaller(QUERIES, s->tokens - i0), from, to;
    key_range(i0, i0 + rows, keys, s->left, s->right, &from, &to);
    const size_t width = round_up(to - from);
    float sum[QUERIES];
    PAIRS(multiply)((const uint32_t *)(q + i0 * s->stride), s->stride / 2, 1,
                    panels_from_column(kb, from), scores, width, rows, width, pairs, 0);
    for (size_t r = 0; r < rows; r++) {
      float *row = scores + r * width;
      size_t lo, hi;
      visible(i0 + r, keys, s->left, s->right, from, &lo, &hi);
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
    PAIRS(multiply)(weights, width / 2, 1, panels_from_pair(vb, from / 2), o, dp, rows, dp,
                    (to - from + 1) / 2, 0);
    for (size_t r = 0; r < rows; r++) {
      const float inverse = 1.0f / sum[r];
      for (size_t c = 0; c < s->head_dim; c++) o[r * dp + c] *= inverse;
      round_row(o + r * dp, out + (i0 + r) * s->out_stride, s->head_dim);
    }
  }
}

PAIRS_ENTRY void PAIRS(ck_attention_backward)(const uint16_t *q, const uint16_t *k,
                                              const uint16_t *v, const uint16_t *out,
                                              const float *dout, const float *lse, float *dq,
                                              float *dk, float *dv,
                                              const ck_rounded_attention_shape *s) {
  const size_t keys = s->tokens, head_dim = s->head_dim, pairs = head_dim / 2;
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
  uint32_t *transposed = halves + GRADIENT_QUERIES * np / 2;
  uint32_t *g = transposed + GRADIENT_QUERIES * np / 2;
  uint32_t *qp = g + GRADIENT_QUERIES * dp / 2, *gp = qp + GRADIENT_QUERIES * dp / 2;
  const pair_panels kb = pack_words_transposed((const uint32_t *)k, s->stride / 2, kt, keys, pairs);
  const pair_panels vb = pack_words_transposed((const uint32_t *)v, s->stride / 2, vt, keys, pairs);
  const pair_panels kr = pack_row_pairs(k, s->stride, kp, keys, head_dim);
  memset(dkp, 0, 2 * keys * dp * sizeof(float));
  for (size_t i0 = 0; i0 < s->tokens; i0 += GRADIENT_QUERIES) {
    size_t rows = smaller(GRADIENT_QUERIES, s->tokens - i0), from, to;
    key_range(i0, i0 + rows, keys, s->left, s->right, &from, &to);
    const size_t width = round_up(to - from), seen = to - from, depth = (rows + 1) / 2;
    const uint16_t *qi = q + i0 * s->stride;
    const float *gi = dout + i0 * s->out_stride;
    for (size_t r = 0; r < rows; r++)
      round_row(gi + r * s->out_stride, (half *)(g + r * pairs), head_dim);
    const pair_panels qb = pack_row_pairs(qi, s->stride, qp, rows, head_dim);
    const pair_panels gb = pack_row_pairs((const half *)g, head_dim, gp, rows, head_dim);
    PAIRS(multiply)((const uint32_t *)qi, s->stride / 2, 1, panels_from_column(kb, from), p, width,
                    rows, width, pairs, 0);
    PAIRS(multiply)(g, pairs, 1, panels_from_column(vb, from), ds, width, rows, width, pairs, 0);
    for (size_t r = 0; r < rows; r++) {
      float *pr = p + r * width, *dr = ds + r * width, delta = 0;
      const uint16_t *o = out + (i0 + r) * s->out_stride;
      const float *gr = gi + r * s->out_stride, shift = lse[i0 + r] * LOG2_E;
      size_t lo, hi;
      visible(i0 + r, keys, s->left, s->right, from, &lo, &hi);
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
    PAIRS(multiply)(halves, width / 2, 1, panels_from_pair(kr, from / 2), block, dp, rows, dp,
                    (seen + 1) / 2, 0);
    for (size_t r = 0; r < rows; r++)
      memcpy(dq + (i0 + r) * s->stride, block + r * dp, head_dim * sizeof(float));
    round_row_pairs(ds, width, transposed, rows);
    PAIRS(multiply)(transposed, 1, width, qb, dkp + from * dp, dp, seen, dp, depth, 1);
    round_row_pairs(p, width, transposed, rows);
    PAIRS(multiply)(transposed, 1, width, gb, dvp + from * dp, dp, seen, dp, depth, 1);
  }
  for (size_t i = 0; i < keys; i++) {
    memcpy(dk + i * s->stride, dkp + i * dp, head_dim * sizeof(float));
    memcpy(dv + i * s->stride, dvp + i * dp, head_dim * sizeof(float));
  }
}

#undef PAIRS_TILE
#undef PAIRS_TILES
