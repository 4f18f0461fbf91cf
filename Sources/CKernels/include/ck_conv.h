#pragma once

/* 3x3 convolution, planes in NCHW order. The input is first copied into padded planes (perhaps
   normalised, activated or enlarged on the way), then convolved directly. */

/* How the planes of one convolution lie in memory; made by ck_conv3x3_geometry. */
typedef struct {
  int height, width;         /* stored input plane */
  int upsample;              /* 1, or 2: nearest neighbour doubling before the convolution */
  int stride;                /* 1 or 2 */
  int pad;                   /* zeros above and left (0 or 1); below and right there is always one */
  int out_height, out_width; /* output plane */
  int rows, row, half;       /* padded plane: rows, floats per row, start of a row's odd columns */
} ck_conv3x3_shape;

ck_conv3x3_shape ck_conv3x3_geometry(int height, int width, int upsample, int stride, int pad);

/* Floats of a padded plane. */
long ck_conv3x3_plane_size(const ck_conv3x3_shape *shape);

/* dst: one padded plane; src: one plane (height, width). Stores f(scale x + shift), where f is SiLU
   if silu is not 0. */
void ck_conv3x3_fill_f32(float *dst, const float *src, const ck_conv3x3_shape *shape, float scale,
                         float shift, int silu);

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
