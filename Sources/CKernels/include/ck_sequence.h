#pragma once
#include <stddef.h>

/* Causal depthwise convolution along tokens, for one batch item: x, y (tokens, channels),
   weight (channels, taps), bias (channels); y[t] = bias + sum_j weight[j] x[t - (taps-1) + j]. */
void ck_causal_conv_forward_f32(const float *x, const float *weight, const float *bias, float *y,
                                size_t tokens, size_t channels, size_t taps);
/* dx (or NULL; stored, or added if accumulate), dweight and dbias are added to (or NULL). */
void ck_causal_conv_backward_f32(const float *x, const float *weight, const float *dy, float *dx,
                                 float *dweight, float *dbias, size_t tokens, size_t channels,
                                 size_t taps, int accumulate);

/* y = q * (k * v); qkv (tokens, 3 dim), y (tokens, dim). */
void ck_hyena_gate_forward_f32(const float *qkv, float *y, size_t tokens, size_t dim);
void ck_hyena_gate_backward_f32(const float *qkv, const float *dy, float *dqkv, size_t tokens,
                                size_t dim, int accumulate);

/* Causal convolution along features, one filter per token, for one row: x, y (features), weight
   (taps); y[f] = bias + sum_j weight[j] x[f - (taps-1) + j]. */
void ck_row_conv_forward_f32(const float *x, const float *weight, float bias, float *y,
                             size_t features, size_t taps);
/* dx (stored, or added if accumulate; or NULL), dweight (taps) and dbias (one) are added to (or
   NULL). */
void ck_row_conv_backward_f32(const float *x, const float *weight, const float *dy, float *dx,
                              float *dweight, float *dbias, size_t features, size_t taps,
                              int accumulate);
