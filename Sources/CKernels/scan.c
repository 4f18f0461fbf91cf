#include "ck_scan.h"
#include "ck_tile.h"

enum { BLOCK = 48 };

size_t ck_scan_states(const ck_scan_shape *s) {
  size_t chunks = (s->tokens + s->chunk - 1) / s->chunk;
  return s->heads * chunks * s->state * round_up(s->head_dim);
}

/* log(1 + e^x), the identity above 20 as in PyTorch. */
static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* One chunk of one head: step sizes, decays summed from the chunk's start, and what enters the
   state. The sums are kept in double: their differences are small where they themselves are
   large. */
typedef struct {
  double *decay;
  float *delta, *input;
} head_chunk;

CK_INLINE void load_head(const ck_scan_shape *s, size_t head, size_t q, size_t width,
                         const float *x, const float *dt, float bias, float a, head_chunk c) {
  size_t p = s->head_dim, padded = round_up(p);
  double sum = 0;
  for (size_t t = 0; t < q; t++) {
    float delta = softplus(dt[t * s->heads + head] + bias);
    sum += (double)delta * a;
    c.delta[t] = delta;
    c.decay[t] = sum;
    for (size_t i = 0; i < p; i++) c.input[t * padded + i] = delta * x[t * width + head * p + i];
    for (size_t i = p; i < padded; i++) c.input[t * padded + i] = 0;
  }
}

/* scores (q, padded q) = C B^T on and left of the diagonal's block. */
CK_INLINE void score(const float *c, size_t c_stride, const float *bt, float *scores, size_t q,
                     size_t qp, size_t state) {
  for (size_t i = 0; i < q; i += BLOCK) {
    size_t rows = smaller(BLOCK, q - i);
    multiply(c + i * c_stride, c_stride, 1, bt, qp, scores + i * qp, qp, rows, round_up(i + rows),
             state, 0);
  }
}

/* Offsets of B and C of a group in a row of xbc. */
CK_INLINE size_t b_column(const ck_scan_shape *s, size_t group) {
  return s->heads * s->head_dim + group * s->state;
}
CK_INLINE size_t c_column(const ck_scan_shape *s, size_t group) {
  return b_column(s, group) + s->groups * s->state;
}

CK_CLONES void ck_scan_forward_f32(const ck_scan_shape *s, size_t group, size_t first, size_t last,
                                   const float *xbc, const float *dt, const float *dt_bias,
                                   const float *a_log, const float *d, float *y, float *states) {
  size_t p = s->head_dim, n = s->state, pp = round_up(p), inner = s->heads * p;
  size_t width = inner + 2 * s->groups * n, size = n * pp;
  size_t chunks = (s->tokens + s->chunk - 1) / s->chunk, longest = smaller(s->chunk, s->tokens);
  size_t lp = round_up(longest);
  float *bt = scratch(n * lp + longest * lp + BLOCK * lp + 2 * longest * pp + 3 * lp + LANES);
  float *scores = bt + n * lp, *m = scores + longest * lp, *out = m + BLOCK * lp;
  head_chunk c = {.input = out + longest * pp};
  c.decay = (double *)(c.input + longest * pp), c.delta = (float *)(c.decay + lp);
  for (size_t index = 0; index < chunks; index++) {
    size_t t0 = index * s->chunk, q = smaller(s->chunk, s->tokens - t0), qp = round_up(q);
    const float *x = xbc + t0 * width;
    const float *b = x + b_column(s, group), *cc = x + c_column(s, group);
    pack_transposed(b, width, bt, q, n, qp);
    score(cc, width, bt, scores, q, qp, n);
    for (size_t h = first; h < last; h++) {
      float *state = states + (h * chunks + index) * size;
      if (index == 0) memset(state, 0, size * sizeof *state);
      load_head(s, h, q, width, x, dt + t0 * s->heads, dt_bias[h], -expf(a_log[h]), c);
      multiply(cc, width, 1, state, pp, out, pp, q, pp, n, 0);
      for (size_t t = 0; t < q; t++) {
        float decay = ck_exp((float)c.decay[t]);
        for (size_t i = 0; i < pp; i++) out[t * pp + i] *= decay;
      }
      for (size_t i0 = 0; i0 < q; i0 += BLOCK) {
        size_t rows = smaller(BLOCK, q - i0), end = i0 + rows;
        for (size_t r = 0; r < rows; r++) {
          size_t t = i0 + r;
          const float *row = scores + t * qp;
          for (size_t k = 0; k <= t; k++)
            m[r * qp + k] = row[k] * ck_exp((float)(c.decay[t] - c.decay[k]));
          for (size_t k = t + 1; k < end; k++) m[r * qp + k] = 0;
        }
        multiply(m, qp, 1, c.input, pp, out + i0 * pp, pp, rows, pp, end, 1);
      }
      for (size_t t = 0; t < q; t++) {
        const float *from = x + t * width + h * p;
        float *to = y + (t0 + t) * inner + h * p;
        for (size_t i = 0; i < p; i++) to[i] = out[t * pp + i] + d[h] * from[i];
      }
      if (index + 1 == chunks) continue;
      float *next = state + size, whole = ck_exp((float)c.decay[q - 1]);
      for (size_t t = 0; t < q; t++) {
        float decay = ck_exp((float)(c.decay[q - 1] - c.decay[t]));
        for (size_t i = 0; i < pp; i++) c.input[t * pp + i] *= decay;
      }
      for (size_t i = 0; i < size; i++) next[i] = whole * state[i];
      multiply(b, 1, width, c.input, pp, next, pp, n, pp, q, 1);
    }
  }
}

CK_CLONES void ck_scan_backward_f32(const ck_scan_shape *s, size_t group, size_t first,
                                    size_t last, const float *xbc, const float *dt,
                                    const float *dt_bias, const float *a_log, const float *d,
                                    const float *dy, const float *states,
                                    const ck_scan_gradients *to) {
  size_t p = s->head_dim, n = s->state, pp = round_up(p), np = round_up(n);
  size_t inner = s->heads * p, width = inner + 2 * s->groups * n, size = n * pp;
  size_t chunks = (s->tokens + s->chunk - 1) / s->chunk, longest = smaller(s->chunk, s->tokens);
  size_t lp = round_up(longest), square = longest * lp;
  float *bt = scratch(n * lp + 2 * square + 2 * BLOCK * lp + 5 * longest * np + p * lp +
                      5 * longest * pp + p * np + (last - first) * size + 7 * lp + LANES);
  float *scores = bt + n * lp, *dscores = scores + square;
  float *m = dscores + square, *dm = m + BLOCK * lp;
  float *bp = dm + BLOCK * lp, *cp = bp + longest * np, *db = cp + longest * np;
  float *dc = db + longest * np, *rows_n = dc + longest * np;
  float *xt = rows_n + longest * np, *g = xt + p * lp, *dinput = g + longest * pp;
  float *rows_p = dinput + longest * pp, *scaled = rows_p + longest * pp;
  head_chunk c = {.input = scaled + longest * pp};
  float *turned = c.input + longest * pp, *dstates = turned + p * np;
  c.decay = (double *)(dstates + (last - first) * size);
  double *ddecay = c.decay + lp, *columns = ddecay + lp;
  c.delta = (float *)(columns + lp);

  memset(dstates, 0, (last - first) * size * sizeof *dstates);
  for (size_t h = first; h < last; h++) to->ddt_bias[h] = to->da_log[h] = to->dd[h] = 0;
  for (size_t index = chunks; index-- > 0;) {
    size_t t0 = index * s->chunk, q = smaller(s->chunk, s->tokens - t0), qp = round_up(q);
    const float *x = xbc + t0 * width;
    const float *b = x + b_column(s, group), *cc = x + c_column(s, group);
    pack_transposed(b, width, bt, q, n, qp);
    pack(b, width, bp, q, n, np);
    pack(cc, width, cp, q, n, np);
    score(cc, width, bt, scores, q, qp, n);
    memset(dscores, 0, q * qp * sizeof *dscores);
    memset(db, 0, q * np * sizeof *db);
    memset(dc, 0, q * np * sizeof *dc);
    for (size_t h = first; h < last; h++) {
      const float *state = states + (h * chunks + index) * size;
      float *dstate = dstates + (h - first) * size, a = -expf(a_log[h]);
      load_head(s, h, q, width, x, dt + t0 * s->heads, dt_bias[h], a, c);
      pack(dy + t0 * inner + h * p, inner, g, q, p, pp);
      pack_transposed(c.input, pp, xt, q, p, qp);
      memset(dinput, 0, q * pp * sizeof *dinput);
      memset(columns, 0, q * sizeof *columns);
      for (size_t t = 0; t < q; t++) ddecay[t] = 0;

      /* Within the chunk: y = (C B^T . decay) input. What a pair of tokens adds to the slope at one
         it takes from the slope at the other; sums in double let that cancel exactly. */
      for (size_t i0 = 0; i0 < q; i0 += BLOCK) {
        size_t rows = smaller(BLOCK, q - i0), end = i0 + rows;
        multiply(g + i0 * pp, pp, 1, xt, qp, dm, qp, rows, round_up(end), p, 0);
        for (size_t r = 0; r < rows; r++) {
          CK_REASSOCIATE
          size_t t = i0 + r;
          const float *score_row = scores + t * qp, *dm_row = dm + r * qp;
          float *dscore_row = dscores + t * qp, *m_row = m + r * qp;
          double sum = 0;
          for (size_t k = 0; k <= t; k++) {
            float decay = ck_exp((float)(c.decay[t] - c.decay[k]));
            float weight = score_row[k] * decay, slope = dm_row[k] * weight;
            m_row[k] = weight;
            dscore_row[k] += dm_row[k] * decay;
            columns[k] += slope;
            sum += slope;
          }
          for (size_t k = t + 1; k < end; k++) m_row[k] = 0;
          ddecay[t] += sum;
        }
        multiply(m, 1, qp, g + i0 * pp, pp, dinput, pp, end, pp, rows, 1);
      }
      for (size_t t = 0; t < q; t++) ddecay[t] -= columns[t];

      /* Through the state at the chunk's end: B^T (input . decay to the end). */
      if (index + 1 < chunks) {
        multiply(bp, np, 1, dstate, pp, rows_p, pp, q, pp, n, 0);
        pack_transposed(dstate, pp, turned, n, p, np);
        for (size_t t = 0; t < q; t++) {
          CK_REASSOCIATE
          float decay = ck_exp((float)(c.decay[q - 1] - c.decay[t])), slope = 0;
          for (size_t i = 0; i < pp; i++) {
            scaled[t * pp + i] = decay * c.input[t * pp + i];
            slope += scaled[t * pp + i] * rows_p[t * pp + i];
            dinput[t * pp + i] += decay * rows_p[t * pp + i];
          }
          ddecay[t] -= slope;
          ddecay[q - 1] += slope;
        }
        multiply(scaled, pp, 1, turned, np, db, np, q, np, p, 1);
      }

      /* Through the state at the chunk's start, which reaches every output and the end. */
      if (index > 0) {
        float whole = ck_exp((float)c.decay[q - 1]), kept = 0;
        pack_transposed(state, pp, turned, n, p, np);
        for (size_t t = 0; t < q; t++) {
          float decay = ck_exp((float)c.decay[t]);
          for (size_t i = 0; i < pp; i++) scaled[t * pp + i] = decay * g[t * pp + i];
        }
        multiply(scaled, pp, 1, turned, np, rows_n, np, q, np, p, 0);
        for (size_t t = 0; t < q; t++) {
          CK_REASSOCIATE
          float slope = 0;
          for (size_t i = 0; i < np; i++) {
            slope += rows_n[t * np + i] * cp[t * np + i];
            dc[t * np + i] += rows_n[t * np + i];
          }
          ddecay[t] += slope;
        }
        {
          CK_REASSOCIATE
          for (size_t i = 0; i < size; i++) {
            kept += dstate[i] * state[i];
            dstate[i] *= whole;
          }
        }
        ddecay[q - 1] += whole * kept;
        multiply(cp, 1, np, scaled, pp, dstate, pp, n, pp, q, 1);
      }

      /* decay_t is the sum of delta A up to t; input = delta x. */
      double after = 0, da = 0, dbias = 0, dskip = 0;
      for (size_t t = q; t-- > 0;) {
        CK_REASSOCIATE
        const float *from = x + t * width + h * p;
        float *dx = to->dxbc + (t0 + t) * width + h * p, along = 0, skip = 0;
        for (size_t i = 0; i < p; i++) {
          along += dinput[t * pp + i] * from[i];
          skip += g[t * pp + i] * from[i];
          dx[i] = c.delta[t] * dinput[t * pp + i] + d[h] * g[t * pp + i];
        }
        after += ddecay[t];
        da += after * c.delta[t];
        dskip += skip;
        float raw = dt[(t0 + t) * s->heads + h] + dt_bias[h];
        float ddt = ((float)(after * a) + along) * ck_sigmoid(raw);
        to->ddt[(t0 + t) * s->heads + h] = ddt;
        dbias += ddt;
      }
      to->da_log[h] += (float)(da * a);
      to->ddt_bias[h] += (float)dbias;
      to->dd[h] += (float)dskip;
    }
    for (size_t i0 = 0; i0 < q; i0 += BLOCK) {
      size_t rows = smaller(BLOCK, q - i0), end = i0 + rows;
      multiply(dscores + i0 * qp, qp, 1, bp, np, dc + i0 * np, np, rows, np, end, 1);
      multiply(dscores + i0 * qp, 1, qp, cp + i0 * np, np, db, np, end, np, rows, 1);
    }
    for (size_t t = 0; t < q; t++) {
      memcpy(to->db + (t0 + t) * to->bc_stride, db + t * np, n * sizeof(float));
      memcpy(to->dc + (t0 + t) * to->bc_stride, dc + t * np, n * sizeof(float));
    }
  }
}
