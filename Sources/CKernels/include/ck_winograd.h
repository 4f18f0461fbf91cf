#pragma once

/* 3x3 convolution with fewer multiplications, planes in NCHW order, one zero on every side.

   Overlapping tiles of the input and the weights are transformed to `side` x `side` values each; their
   products, summed over the input channels, are transformed to 2x2 pixels of the result. Without
   doubling this is Winograd's F(2x2, 3x3): 16 products in the place of 36. After nearest-neighbour
   doubling four pixels see only nine different sums of weights: 9 products in the place of 36. */

/* One convolution; made by ck_winograd_geometry. */
typedef struct {
  int height, width; /* input plane */
  int in_channels, out_channels;
  int doubles;               /* nearest-neighbour doubling before the convolution, 0 or 1 */
  int out_height, out_width; /* output plane */
  int side;                  /* of a tile of the input: 4, or 3 before doubling */
  int group;                 /* output channels that are multiplied together */
  int tile_rows, segments;   /* rows of tiles, segments of eight tiles in a row */
} ck_winograd_shape;

/* A rectangle of the tiles, in rows and segments. */
typedef struct {
  int first_row, rows, first_segment, segments;
} ck_winograd_band;

/* `group` is ck_get_tile_rows() when the weights were packed. */
ck_winograd_shape ck_winograd_geometry(int height, int width, int in_channels, int out_channels,
                                       int doubles, int group);

/* Groups of output channels. */
int ck_winograd_groups(const ck_winograd_shape *shape);

/* Floats of packed weights; independent of height and width. */
long ck_winograd_packed_size(const ck_winograd_shape *shape);

/* packed: weights (out, in, 3, 3) of the groups [group_begin, group_end) transformed. */
void ck_winograd_pack_f32(float *packed, const float *weight, const ck_winograd_shape *shape,
                          int group_begin, int group_end);

/* Bands whose transformed input stays in the cache, and the one at an index. */
int ck_winograd_band_count(const ck_winograd_shape *shape);
ck_winograd_band ck_winograd_band_at(const ck_winograd_shape *shape, int index);

/* Floats of a band's transformed input. */
long ck_winograd_band_size(const ck_winograd_shape *shape, const ck_winograd_band *band);

/* v: the tiles of a band of x (in_channels, height, width), channels [channel_begin, channel_end),
   transformed. Of every channel SiLU(scale x + shift) is taken, or x where scale is NULL. */
void ck_winograd_transform_f32(float *v, const float *x, const float *scale, const float *shift,
                               const ck_winograd_shape *shape, const ck_winograd_band *band,
                               int channel_begin, int channel_end);

/* out (out_channels, out_height, out_width), the pixels of a band in the channels of the groups
   [group_begin, group_end) = bias + convolution of the transformed input + residual (like out, may
   be out itself or NULL); negative results become 0 if relu is not 0. */
void ck_winograd_multiply_f32(float *out, const float *v, const float *packed, const float *bias,
                              const float *residual, const ck_winograd_shape *shape,
                              const ck_winograd_band *band, int group_begin, int group_end,
                              int relu);
