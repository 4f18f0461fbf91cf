#pragma once
#include <stdint.h>

/* 3x3 convolution by its definition, planes in NCHW order. The input is first copied into padded
   planes, optionally with normalisation and activation.

   In bfloat16 an element of a plane is a pair of neighbouring channels, the first one in the lower
   half; sums, bias, residual and result are float32. */

/* Memory layout of the planes of one convolution; made by ck_conv3x3_geometry. */
typedef struct {
  int height, width;         /* stored input plane */
  int stride;                /* 1 or 2 */
  int pad;                   /* zeros above and left (0 or 1); below and right there is always one */
  int out_height, out_width; /* output plane */
  int rows, row, half;       /* padded plane: rows, elements per row, start of a row's odd columns */
} ck_conv3x3_shape;

ck_conv3x3_shape ck_conv3x3_geometry(int height, int width, int stride, int pad);

/* Elements of a padded plane. */
long ck_conv3x3_plane_size(const ck_conv3x3_shape *shape);

/* dst: one padded plane; src: one plane (height, width). Stores f(scale x + shift), where f is SiLU
   if silu is not 0. */
void ck_conv3x3_fill_f32(float *dst, const float *src, const ck_conv3x3_shape *shape, float scale,
                         float shift, int silu);

/* The same for a pair of channels (`count` 2) or a channel alone (1); src, scale and shift of both
   follow each other. Always with SiLU, unless scale and shift are NULL: then src as it is. */
void ck_conv3x3_fill_bf16(uint32_t *dst, const float *src, int count, const ck_conv3x3_shape *shape,
                          const float *scale, const float *shift);

/* Floats of packed weights. */
long ck_conv3x3_packed_size(int out_channels, int in_channels);

/* packed: weights (out, in, 3, 3) in groups of four output channels, the last one filled with 0. */
void ck_conv3x3_pack_f32(float *packed, const float *weight, int out_channels, int in_channels);

/* out (out_channels, out_height, out_width) rows [row_begin, row_end) = bias + convolution of
   planes (in_channels padded planes) + residual (like out, may be out itself or NULL); negative
   results become 0 if relu is not 0. */
void ck_conv3x3_forward_f32(float *out, const float *planes, const float *packed,
                            const float *bias, const float *residual,
                            const ck_conv3x3_shape *shape, int in_channels, int out_channels,
                            int row_begin, int row_end, int relu);

/* Elements of packed weights, with or without doubling. */
long ck_conv3x3_packed_size_bf16(int out_channels, int in_channels, int doubles);

/* packed: weights (out, in, 3, 3) in groups of eight output channels. With doubling, each of the four output
   pixels of an input pixel has 2x2 weights: the sums of those of the 3x3 that read the same input pixel. */
void ck_conv3x3_pack_bf16(uint32_t *packed, const float *weight, int out_channels, int in_channels,
                          int doubles);

/* As ck_conv3x3_forward_f32 with (in_channels + 1) / 2 padded planes of pairs; with dot products of the
   CPU if `native`, which must have them. If the image is doubled (stride and pad 1), out is (out_channels,
   2 height, 2 width) and rows are those before doubling. */
void ck_conv3x3_forward_bf16(float *out, const uint32_t *planes, const uint32_t *packed,
                             const float *bias, const float *residual,
                             const ck_conv3x3_shape *shape, int in_channels, int out_channels,
                             int doubles, int row_begin, int row_end, int relu, int native);
