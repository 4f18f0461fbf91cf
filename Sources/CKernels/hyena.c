#include "ck_hyena.h"
#include "ck_tile.h"

/* Sixteen channels at a time, of which the last ones may be missing; what passes between the
   convolutions stays in the cache. */

enum { MAX_TAPS = 64 };

/* Elements of float32 or of bfloat16. */
typedef struct {
  const void *start;
  int is_rounded;
} elements;

CK_INLINE void load(elements x, size_t at, size_t n, vec *out) {
  if (x.is_rounded) {
    const uint16_t *from = (const uint16_t *)x.start + at;
    if (n == LANES) {
      for (size_t c = 0; c < LANES; c++) (*out)[c] = ck_from_bfloat16(from[c]);
    } else {
      *out = (vec){0};
      for (size_t c = 0; c < n; c++) (*out)[c] = ck_from_bfloat16(from[c]);
    }
  } else {
    const float *from = (const float *)x.start + at;
    if (n == LANES) {
      *out = *(const vec *)from;
    } else {
      *out = (vec){0};
      for (size_t c = 0; c < n; c++) (*out)[c] = from[c];
    }
  }
}

CK_INLINE void store(float *to, size_t n, const vec *value, int add) {
  if (n == LANES) *(vec *)to = add ? *(vec *)to + *value : *value;
  else
    for (size_t c = 0; c < n; c++) to[c] = (add ? to[c] : 0) + (*value)[c];
}

/* The filters of n channels, tap by tap, and their bias. */
typedef struct {
  vec taps[MAX_TAPS], bias;
} filter;

CK_INLINE void gather(filter *f, const float *weight, const float *bias, size_t channel, size_t n,
                      size_t taps) {
  for (size_t j = 0; j < taps; j++) {
    f->taps[j] = (vec){0};
    for (size_t c = 0; c < n; c++) f->taps[j][c] = weight[(channel + c) * taps + j];
  }
  load((elements){bias, 0}, channel, n, &f->bias);
}

CK_INLINE void scatter(const filter *f, float *weight, float *bias, size_t channel, size_t n,
                       size_t taps) {
  for (size_t j = 0; j < taps; j++)
    for (size_t c = 0; c < n; c++) weight[(channel + c) * taps + j] += f->taps[j][c];
  store(bias + channel, n, &f->bias, 1);
}

/* Token t of one of q, k, v: x, or its convolution. */
CK_INLINE void convolved(elements x, size_t channel, size_t n, const filter *f,
                         const ck_hyena_shape *s, size_t t, vec *out) {
  const size_t row = 3 * s->dim;
  if (s->short_taps == 0) return load(x, t * row + channel, n, out);
  vec sum = f->bias, in;
  for (size_t j = 0, lag = s->short_taps - 1; j < s->short_taps; j++, lag--) {
    if (lag > t) continue;
    load(x, (t - lag) * row + channel, n, &in);
    sum += f->taps[j] * in;
  }
  *out = sum;
}

/* Token t of the inner convolution of `signal`. */
CK_INLINE void inner_convolved(const vec *signal, const filter *f, size_t taps, size_t t, vec *out) {
  if (taps == 0) {
    *out = signal[t];
    return;
  }
  vec sum = f->bias;
  for (size_t j = 0, lag = taps - 1; j < taps; j++, lag--)
    if (lag <= t) sum += f->taps[j] * signal[t - lag];
  *out = sum;
}

/* The way back through a convolution: token t of the gradient of its input. */
CK_INLINE void correlated(const vec *gradient, const filter *f, size_t taps, size_t tokens, size_t t,
                          vec *out) {
  vec sum = {0};
  for (size_t j = 0, lag = taps - 1; j < taps; j++, lag--)
    if (t + lag < tokens) sum += f->taps[j] * gradient[t + lag];
  *out = sum;
}

CK_INLINE void forward(elements x, const ck_hyena_filters *filters, float *y, uint16_t *halves,
                       const ck_hyena_shape *s) {
  filter outer[3], inner;
  vec *signal = (vec *)scratch(s->tokens * LANES);
  for (size_t c = s->from; c < s->to; c += LANES) {
    const size_t n = smaller(LANES, s->to - c);
    if (s->short_taps)
      for (size_t i = 0; i < 3; i++)
        gather(&outer[i], filters->short_weight, filters->short_bias, i * s->dim + c, n,
               s->short_taps);
    if (s->inner_taps)
      gather(&inner, filters->inner_weight, filters->inner_bias, c, n, s->inner_taps);
    for (size_t t = 0; t < s->tokens; t++) {
      vec q, k, v, m;
      convolved(x, c, n, &outer[0], s, t, &q);
      convolved(x, s->dim + c, n, &outer[1], s, t, &k);
      convolved(x, 2 * s->dim + c, n, &outer[2], s, t, &v);
      signal[t] = k * v;
      inner_convolved(signal, &inner, s->inner_taps, t, &m);
      m *= q;
      if (y) store(y + t * s->dim + c, n, &m, 0);
      else
        for (size_t i = 0; i < n; i++)
          halves[t * s->dim + c + i] = (uint16_t)ck_bfloat16_bits(m[i]);
    }
  }
}

CK_INLINE void backward(elements x, const ck_hyena_filters *filters, const float *dy, float *dx,
                        int accumulate, const ck_hyena_filters *gradients, const ck_hyena_shape *s) {
  filter outer[3], inner, slope;
  const size_t tokens = s->tokens, row = 3 * s->dim;
  vec *parts[3], *signal = (vec *)scratch(5 * tokens * LANES), *slopes = signal + tokens;
  for (size_t i = 0; i < 3; i++) parts[i] = signal + (2 + i) * tokens;
  for (size_t c = s->from; c < s->to; c += LANES) {
    const size_t n = smaller(LANES, s->to - c);
    if (s->short_taps)
      for (size_t i = 0; i < 3; i++)
        gather(&outer[i], filters->short_weight, filters->short_bias, i * s->dim + c, n,
               s->short_taps);
    if (s->inner_taps)
      gather(&inner, filters->inner_weight, filters->inner_bias, c, n, s->inner_taps);
    /* Forwards: the gradients of q and of what it is multiplied with. */
    slope.bias = (vec){0};
    for (size_t j = 0; j < s->inner_taps; j++) slope.taps[j] = (vec){0};
    for (size_t t = 0; t < tokens; t++) {
      vec q, m, g;
      convolved(x, c, n, &outer[0], s, t, &q);
      convolved(x, s->dim + c, n, &outer[1], s, t, &parts[1][t]);
      convolved(x, 2 * s->dim + c, n, &outer[2], s, t, &parts[2][t]);
      signal[t] = parts[1][t] * parts[2][t];
      inner_convolved(signal, &inner, s->inner_taps, t, &m);
      load((elements){dy, 0}, t * s->dim + c, n, &g);
      parts[0][t] = g * m;
      const vec back = slopes[t] = g * q;
      slope.bias += back;
      for (size_t j = 0, lag = s->inner_taps - 1; j < s->inner_taps; j++, lag--)
        if (lag <= t) slope.taps[j] += back * signal[t - lag];
    }
    if (s->inner_taps && gradients->inner_weight)
      scatter(&slope, gradients->inner_weight, gradients->inner_bias, c, n, s->inner_taps);
    /* Those of k and v. */
    for (size_t t = 0; t < tokens; t++) {
      vec back = slopes[t];
      if (s->inner_taps) correlated(slopes, &inner, s->inner_taps, tokens, t, &back);
      const vec k = parts[1][t];
      parts[1][t] = back * parts[2][t];
      parts[2][t] = back * k;
    }
    /* And those of x and of the short filters. */
    for (size_t i = 0; i < 3; i++) {
      const size_t channel = i * s->dim + c;
      if (dx)
        for (size_t t = 0; t < tokens; t++) {
          vec back = parts[i][t];
          if (s->short_taps) correlated(parts[i], &outer[i], s->short_taps, tokens, t, &back);
          store(dx + t * row + channel, n, &back, accumulate);
        }
      if (!s->short_taps || !gradients->short_weight) continue;
      slope.bias = (vec){0};
      for (size_t j = 0; j < s->short_taps; j++) slope.taps[j] = (vec){0};
      for (size_t t = 0; t < tokens; t++) {
        vec in;
        load(x, t * row + channel, n, &in);
        slope.bias += parts[i][t];
        for (size_t j = 0, lag = s->short_taps - 1; j < s->short_taps; j++, lag--)
          if (t + lag < tokens) slope.taps[j] += parts[i][t + lag] * in;
      }
      scatter(&slope, gradients->short_weight, gradients->short_bias, channel, n, s->short_taps);
    }
  }
}

CK_CLONES void ck_hyena_forward_f32(const float *x, const ck_hyena_filters *filters, float *y,
                                    const ck_hyena_shape *shape) {
  forward((elements){x, 0}, filters, y, NULL, shape);
}

CK_CLONES void ck_hyena_backward_f32(const float *x, const ck_hyena_filters *filters,
                                     const float *dy, float *dx, int accumulate,
                                     const ck_hyena_filters *gradients, const ck_hyena_shape *shape) {
  backward((elements){x, 0}, filters, dy, dx, accumulate, gradients, shape);
}

CK_CLONES void ck_hyena_forward_bf16(const uint16_t *x, const ck_hyena_filters *filters,
                                     uint16_t *y, const ck_hyena_shape *shape) {
  forward((elements){x, 1}, filters, NULL, y, shape);
}

CK_CLONES void ck_hyena_backward_bf16(const uint16_t *x, const ck_hyena_filters *filters,
                                      const float *dy, float *dx, int accumulate,
                                      const ck_hyena_filters *gradients, const ck_hyena_shape *shape) {
  backward((elements){x, 1}, filters, dy, dx, accumulate, gradients, shape);
}
