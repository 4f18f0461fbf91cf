#pragma once
#include <stddef.h>
#include <stdint.h>

/* The Hyena mixers between their projections, y = q * inner(k * v) with q, k, v = short(x): both
   convolutions are causal and depthwise, either may be absent. One pass over the tokens of one batch
   item; channels `from` ..< `to` of each of q, k, v. */
typedef struct {
  size_t tokens, dim; /* x (tokens, 3 dim), y (tokens, dim) */
  size_t from, to;    /* channels */
  size_t short_taps;  /* 0: q, k, v = x */
  size_t inner_taps;  /* 0: y = q * (k * v) */
  int is_bfloat16;    /* x and y; all else is float32 */
} ck_hyena_shape;

/* Weights (3 dim, short_taps) and (dim, inner_taps) and biases, or room for their gradients. */
typedef struct {
  float *short_weight, *short_bias, *inner_weight, *inner_bias;
} ck_hyena_filters;

void ck_hyena_forward(const void *x, const ck_hyena_filters *filters, void *y,
                      const ck_hyena_shape *shape);
/* Stores dx (or adds to it, or NULL); adds to the gradients of the filters where there is room. */
void ck_hyena_backward(const void *x, const ck_hyena_filters *filters, const float *dy, float *dx,
                       int accumulate, const ck_hyena_filters *gradients,
                       const ck_hyena_shape *shape);
