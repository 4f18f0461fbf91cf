#pragma once
#include <stddef.h>

/* 1 / (1 + e^-x). */
float ck_sigmoid_f32(float x);

/* All arrays are contiguous float32 unless a stride is named. */

/* y = GELU(x), the tanh form. */
void ck_gelu_forward_f32(const float *x, float *y, size_t count);
/* dx (+)= dy * GELU'(x). */
void ck_gelu_backward_f32(const float *x, const float *dy, float *dx, size_t count, int accumulate);

void ck_silu_forward_f32(const float *x, float *y, size_t count);
void ck_silu_backward_f32(const float *x, const float *dy, float *dx, size_t count, int accumulate);

/* y += x. */
void ck_add_f32(float *y, const float *x, size_t count);
/* y += a * x. */
void ck_axpy_f32(float *y, float a, const float *x, size_t count);
/* y *= a. */
void ck_scale_f32(float *y, float a, size_t count);
/* dbias[c] += sum over rows of dy[r * stride + c]. */
void ck_bias_backward_f32(const float *dy, size_t stride, float *dbias, size_t rows, size_t cols);

/* out[n][d] = x[n][d] + gate[d] * y[n][d], for one batch item. */
void ck_gated_residual_forward_f32(const float *x, const float *y, const float *gate, float *out,
                                   size_t tokens, size_t dim);
/* dy = gate * dout (or NULL), dgate[d] += sum_n dout * y (or NULL). */
void ck_gated_residual_backward_f32(const float *dout, const float *y, const float *gate, float *dy,
                                    float *dgate, size_t tokens, size_t dim, int accumulate);

/* Sum of squares in double. */
double ck_sum_squares_f32(const float *x, size_t count);

/* Regression losses: returns the sum of the loss over elements; gradient (if not NULL) is
   scale * dloss/dprediction. kind: 0 = L1, 1 = L2 (squared error), 2 = Huber with delta. */
double ck_regression_loss_f32(const float *prediction, const float *target, float *gradient,
                              size_t count, int kind, float delta, float scale);
