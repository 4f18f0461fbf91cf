#pragma once
#include <stddef.h>

/* A grid of tokens, of which blocks of factor x factor are merged to one; a remainder at the right and lower
   edge is not read. */
typedef struct {
  size_t rows, columns, factor, dim;
  size_t stride, out_stride; /* floats between tokens before and after */
} ck_compression_shape;

/* Depthwise convolution with kernel and step `factor`: x (rows columns, stride), weight
   (dim, factor factor), bias (dim), y (rows/factor columns/factor, out_stride). */
void ck_token_compression_forward_f32(const float *x, const float *weight, const float *bias,
                                      float *y, const ck_compression_shape *shape);
/* Adds to dx (or NULL), dweight and dbias (or both NULL). */
void ck_token_compression_backward_f32(const float *x, const float *weight, const float *dy,
                                       float *dx, float *dweight, float *dbias,
                                       const ck_compression_shape *shape);
