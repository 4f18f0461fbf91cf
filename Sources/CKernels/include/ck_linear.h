#pragma once
#include <stddef.h>

/* Products of a linear layer whose weight matrix fits the cache, on the calling thread. They need neither the
   packing of general products (ck_gemm.h) nor their passes over C. All widths must be multiples of 16
   (`ck_linear_fits`); tensors are contiguous and row-major unless a stride is named. */

/* Whether the functions below take a layer of these widths. */
int ck_linear_fits(size_t inputs, size_t outputs);
/* y (rows, outputs) = x (rows, inputs) weight^T + bias; weight (outputs, inputs), bias (outputs)
   or NULL. */
void ck_linear_forward_f32(const float *x, const float *weight, const float *bias, float *y,
                           size_t rows, size_t inputs, size_t outputs);
/* dx (rows, inputs) (+)= dy (rows, outputs) weight. */
void ck_linear_input_gradient_f32(const float *dy, const float *weight, float *dx, size_t rows,
                                  size_t inputs, size_t outputs, int add);
/* dweight (outputs, inputs) (+)= dy^T x; `outputs` columns of dy, whose rows are `dy_stride` apart. */
void ck_linear_weight_gradient_f32(const float *dy, size_t dy_stride, const float *x, float *dweight,
                                   size_t rows, size_t inputs, size_t outputs, int add);
