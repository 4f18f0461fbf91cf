#pragma once
#include <stddef.h>

/* Depthwise convolution of the token grid (rows x columns tokens, `stride` apart) with zeros around it; weight
   (channels, kernel, kernel), kernel odd and at most 7. All of them add. */
enum { CK_GRID_MOST_TAPS = 49 };
void ck_grid_conv_forward_f32(const float *x, size_t stride, const float *weight, const float *bias,
                              float *y, size_t out_stride, size_t rows, size_t columns,
                              size_t channels, size_t kernel);
void ck_grid_conv_input_gradient_f32(const float *weight, const float *dy, size_t out_stride, float *dx,
                                     size_t stride, size_t rows, size_t columns, size_t channels,
                                     size_t kernel);
void ck_grid_conv_weight_gradient_f32(const float *x, size_t stride, const float *dy, size_t out_stride,
                                      float *dweight, float *dbias, size_t rows, size_t columns,
                                      size_t channels, size_t kernel);

/* y = (x - mean) / sqrt(variance + epsilon) weight + bias, with mean and (biased) variance of each channel over
   the tokens; saved (2, channels): mean and 1 / sqrt(variance + epsilon). */
void ck_token_norm_forward_f32(const float *x, size_t stride, const float *weight, const float *bias,
                               float epsilon, float *y, size_t out_stride, float *mean, float *scale,
                               size_t tokens, size_t channels);
/* Stores dx; adds to dweight and dbias. */
void ck_token_norm_backward_f32(const float *x, size_t stride, const float *weight, const float *mean,
                                const float *scale, const float *dy, size_t out_stride, float *dx,
                                size_t dx_stride, float *dweight, float *dbias, size_t tokens,
                                size_t channels);
