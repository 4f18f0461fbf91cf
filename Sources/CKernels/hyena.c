#include "ck_hyena.h"
#include "ck_tile.h"

/* A few cache lines of channels at a time: memory is read in streams, and the signal between the convolutions
   stays in the cache. The last vector of channels may be partial. */

enum { MAX_TAPS = 64, UNITS = 4, CHANNELS = UNITS * LANES, ROWS = 16 };

/* Elements of float32 or of bfloat16. */
typedef struct {
  void *start;
  int is_bfloat16;
} elements;

/* Sixteen elements, of which n are there and the others zero. */
CK_INLINE void load(elements x, size_t at, size_t n, vec *out) {
  if (n < LANES) *out = (vec){0};
  if (x.is_bfloat16) {
    const uint16_t *from = (const uint16_t *)x.start + at;
    if (n == LANES)
      for (size_t c = 0; c < LANES; c++) (*out)[c] = ck_from_bfloat16(from[c]);
    else
      for (size_t c = 0; c < n; c++) (*out)[c] = ck_from_bfloat16(from[c]);
  } else {
    const float *from = (const float *)x.start + at;
    if (n == LANES) *out = *(const vec *)from;
    else
      for (size_t c = 0; c < n; c++) (*out)[c] = from[c];
  }
}

CK_INLINE elements floats(const void *start) { return (elements){(void *)start, 0}; }

CK_INLINE void store(float *to, size_t n, const vec *value, int add) {
  if (n == LANES) *(vec *)to = add ? *(vec *)to + *value : *value;
  else
    for (size_t c = 0; c < n; c++) to[c] = (add ? to[c] : 0) + (*value)[c];
}

/* The filters of sixteen channels, tap by tap, and their bias. */
typedef struct {
  vec taps[MAX_TAPS], bias;
} filter;

CK_INLINE void gather(filter *f, const float *weight, const float *bias, size_t channel, size_t n,
                      size_t taps) {
  for (size_t j = 0; j < taps; j++) {
    f->taps[j] = (vec){0};
    for (size_t c = 0; c < n; c++) f->taps[j][c] = weight[(channel + c) * taps + j];
  }
  load(floats(bias), channel, n, &f->bias);
}

CK_INLINE void scatter(const filter *f, float *weight, float *bias, size_t channel, size_t n,
                       size_t taps) {
  for (size_t j = 0; j < taps; j++)
    for (size_t c = 0; c < n; c++) weight[(channel + c) * taps + j] += f->taps[j][c];
  store(bias + channel, n, &f->bias, 1);
}

/* Token t of one of q, k, v: x, or its convolution. */
CK_INLINE void convolved(elements x, size_t row, size_t channel, size_t n, const filter *f,
                         size_t taps, size_t t, vec *out) {
  if (taps == 0) return load(x, t * row + channel, n, out);
  vec sum = f->bias, in;
  for (size_t j = t + 1 < taps ? taps - 1 - t : 0; j < taps; j++) {
    load(x, (t + 1 + j - taps) * row + channel, n, &in);
    sum += f->taps[j] * in;
  }
  *out = sum;
}

/* Token t of the convolution of a signal. */
CK_INLINE void inner_convolved(const vec *signal, const filter *f, size_t taps, size_t t,
                               vec *out) {
  if (taps == 0) {
    *out = signal[t * UNITS];
    return;
  }
  vec sum = f->bias;
  for (size_t j = t + 1 < taps ? taps - 1 - t : 0; j < taps; j++)
    sum += f->taps[j] * signal[(t + 1 + j - taps) * UNITS];
  *out = sum;
}

/* The way back through a convolution: token t of the gradient of its input. The gradient has zeros
   behind its last token. */
CK_INLINE void correlated(const vec *gradient, const filter *f, size_t taps, size_t t, vec *out) {
  vec sum = {0};
  for (size_t lag = 0; lag < taps; lag++)
    sum += f->taps[taps - 1 - lag] * gradient[(t + lag) * UNITS];
  *out = sum;
}

CK_INLINE void clear(filter *f, size_t taps) {
  f->bias = (vec){0};
  for (size_t j = 0; j < taps; j++) f->taps[j] = (vec){0};
}

/* Tokens from ..< to of the way back to x: stores dx (or adds to it), adds to the change of the filter,
   each unless it is NULL. */
CK_INLINE void convolve_back(elements x, const vec *gradient, const filter *f, filter *change,
                             float *dx, int accumulate, size_t row, size_t channel, size_t n,
                             size_t from, size_t to, size_t taps) {
  if (dx)
    for (size_t t = from; t < to; t++) {
      vec back = gradient[t * UNITS];
      if (taps) correlated(gradient, f, taps, t, &back);
      store(dx + t * row + channel, n, &back, accumulate);
    }
  if (!change) return;
  vec sums[MAX_TAPS], bias = change->bias, in;
  for (size_t j = 0; j < taps; j++) sums[j] = change->taps[j];
  for (size_t t = from; t < to; t++) {
    load(x, t * row + channel, n, &in);
    bias += gradient[t * UNITS];
    for (size_t j = 0; j < taps; j++) sums[j] += gradient[(t + taps - 1 - j) * UNITS] * in;
  }
  for (size_t j = 0; j < taps; j++) change->taps[j] = sums[j];
  change->bias = bias;
}

/* The filters of some channels; `outer` has those of q, k and v. */
CK_INLINE void gather_all(filter outer[3][UNITS], filter inner[UNITS], const ck_hyena_filters *from,
                          const ck_hyena_shape *s, size_t first, size_t last) {
  for (size_t u = 0, c = first; c < last; u++, c += LANES) {
    const size_t n = smaller(LANES, last - c);
    if (s->short_taps)
      for (size_t i = 0; i < 3; i++)
        gather(&outer[i][u], from->short_weight, from->short_bias, i * s->dim + c, n,
               s->short_taps);
    if (s->inner_taps)
      gather(&inner[u], from->inner_weight, from->inner_bias, c, n, s->inner_taps);
  }
}

CK_INLINE void forward(elements x, const ck_hyena_filters *filters, elements y,
                       const ck_hyena_shape *s, size_t short_taps, size_t inner_taps) {
  const size_t row = 3 * s->dim;
  filter outer[3][UNITS], inner[UNITS];
  vec *signal = (vec *)scratch(s->tokens * CHANNELS);
  for (size_t first = s->from; first < s->to; first += CHANNELS) {
    const size_t last = smaller(first + CHANNELS, s->to);
    gather_all(outer, inner, filters, s, first, last);
    for (size_t t = 0; t < s->tokens; t++)
      for (size_t u = 0, c = first; c < last; u++, c += LANES) {
        const size_t n = smaller(LANES, last - c);
        vec q, k, v, m;
        convolved(x, row, c, n, &outer[0][u], short_taps, t, &q);
        convolved(x, row, s->dim + c, n, &outer[1][u], short_taps, t, &k);
        convolved(x, row, 2 * s->dim + c, n, &outer[2][u], short_taps, t, &v);
        signal[t * UNITS + u] = k * v;
        inner_convolved(signal + u, &inner[u], inner_taps, t, &m);
        m *= q;
        const size_t at = t * s->dim + c;
        if (y.is_bfloat16)
          for (size_t i = 0; i < n; i++)
            ((uint16_t *)y.start)[at + i] = (uint16_t)ck_bfloat16_bits(m[i]);
        else store((float *)y.start + at, n, &m, 0);
      }
  }
}

CK_INLINE void backward(elements x, const ck_hyena_filters *filters, const float *dy, float *dx,
                        int accumulate, const ck_hyena_filters *gradients, const ck_hyena_shape *s,
                        size_t short_taps, size_t inner_taps) {
  const size_t tokens = s->tokens, row = 3 * s->dim;
  filter outer[3][UNITS], inner[UNITS], change[UNITS];
  const size_t size = (tokens + MAX_TAPS) * UNITS;
  vec *parts[3], *signal = (vec *)scratch(5 * size * LANES), *slopes = signal + size;
  for (size_t i = 0; i < 3; i++) parts[i] = slopes + (1 + i) * size;
  for (size_t i = 0; i < 4; i++)
    memset(slopes + i * size + tokens * UNITS, 0, MAX_TAPS * UNITS * sizeof(vec));
  for (size_t first = s->from; first < s->to; first += CHANNELS) {
    const size_t last = smaller(first + CHANNELS, s->to);
    gather_all(outer, inner, filters, s, first, last);
    /* The gradients of q and of what it is multiplied with; what is needed of k and v. */
    for (size_t t = 0; t < tokens; t++)
      for (size_t u = 0, c = first; c < last; u++, c += LANES) {
        const size_t n = smaller(LANES, last - c), at = t * UNITS + u;
        vec q, m, g;
        convolved(x, row, c, n, &outer[0][u], short_taps, t, &q);
        convolved(x, row, s->dim + c, n, &outer[1][u], short_taps, t, &parts[1][at]);
        convolved(x, row, 2 * s->dim + c, n, &outer[2][u], short_taps, t, &parts[2][at]);
        signal[at] = parts[1][at] * parts[2][at];
        inner_convolved(signal + u, &inner[u], inner_taps, t, &m);
        load(floats(dy), t * s->dim + c, n, &g);
        parts[0][at] = g * m;
        slopes[at] = g * q;
      }
    for (size_t u = 0, c = first; c < last; u++, c += LANES) {
      if (inner_taps && gradients->inner_weight) {
        clear(&change[u], inner_taps);
        convolve_back(floats(signal + u), slopes + u, NULL, &change[u], NULL, 0,
                      UNITS * LANES, 0, LANES, 0, tokens, inner_taps);
        scatter(&change[u], gradients->inner_weight, gradients->inner_bias, c,
                smaller(LANES, last - c), inner_taps);
      }
      for (size_t t = 0; t < tokens; t++) {
        const size_t at = t * UNITS + u;
        vec back = slopes[at];
        if (inner_taps) correlated(slopes + u, &inner[u], inner_taps, t, &back);
        const vec k = parts[1][at];
        parts[1][at] = back * parts[2][at];
        parts[2][at] = back * k;
      }
    }
    for (size_t i = 0; i < 3; i++) {
      const int trains = short_taps && gradients->short_weight;
      if (trains)
        for (size_t u = 0; u < UNITS; u++) clear(&change[u], short_taps);
      for (size_t from = 0; from < tokens; from += ROWS)
        for (size_t u = 0, c = first; c < last; u++, c += LANES)
          convolve_back(x, parts[i] + u, &outer[i][u], trains ? &change[u] : NULL, dx, accumulate,
                        row, i * s->dim + c, smaller(LANES, last - c), from,
                        smaller(from + ROWS, tokens), short_taps);
      for (size_t u = 0, c = first; trains && c < last; u++, c += LANES)
        scatter(&change[u], gradients->short_weight, gradients->short_bias, i * s->dim + c,
                smaller(LANES, last - c), short_taps);
    }
  }
}

/* CALL(taps, taps) with constants for the usual filters of four taps, whose loops are unrolled. */
#define FOR_USUAL_TAPS(CALL)                                                                       \
  if (s->short_taps == 4 && s->inner_taps == 4) CALL(4, 4);                                        \
  else if (s->short_taps == 4 && s->inner_taps == 0) CALL(4, 0);                                   \
  else if (s->short_taps == 0 && s->inner_taps == 4) CALL(0, 4);                                   \
  else CALL(s->short_taps, s->inner_taps)

CK_INLINE void forward_usual(elements x, const ck_hyena_filters *filters, elements y,
                             const ck_hyena_shape *s) {
#define FORWARD(SHORT, INNER) forward(x, filters, y, s, SHORT, INNER)
  FOR_USUAL_TAPS(FORWARD);
}

CK_CLONES void ck_hyena_forward(const void *x, const ck_hyena_filters *filters, void *y,
                                const ck_hyena_shape *s) {
  if (s->is_bfloat16) forward_usual((elements){(void *)x, 1}, filters, (elements){y, 1}, s);
  else forward_usual(floats(x), filters, floats(y), s);
}

CK_INLINE void backward_usual(elements x, const ck_hyena_filters *filters, const float *dy, float *dx,
                              int accumulate, const ck_hyena_filters *gradients,
                              const ck_hyena_shape *s) {
#define BACKWARD(SHORT, INNER) backward(x, filters, dy, dx, accumulate, gradients, s, SHORT, INNER)
  FOR_USUAL_TAPS(BACKWARD);
}

CK_CLONES void ck_hyena_backward(const void *x, const ck_hyena_filters *filters, const float *dy,
                                 float *dx, int accumulate, const ck_hyena_filters *gradients,
                                 const ck_hyena_shape *s) {
  const elements input = {(void *)x, 1};
  if (s->is_bfloat16) backward_usual(input, filters, dy, dx, accumulate, gradients, s);
  else backward_usual(floats(x), filters, dy, dx, accumulate, gradients, s);
}
