#include "ck_pixels.h"
#include "ck_tile.h"
#include "ck_winograd.h"

/* Eight neighbouring tiles or pixels of a row; a vector holds two such segments. */
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

enum {
  WIDE = 8,
  MOST_FLOATS = 1 << 20, /* of a band's transformed input */
  MOST_DEPTH = 256,      /* input channels of a panel that fits the first-level cache */
  MOST_TILES = 128,      /* multiplied at a time; their products fit the second-level cache */
  MOST_OUTS = 48         /* the same for output channels */
};

static int parts_of(int n, int most) { return (n + most - 1) / most; }
static int smaller_int(int a, int b) { return a < b ? a : b; }
static int larger_int(int a, int b) { return a > b ? a : b; }

ck_winograd_shape ck_winograd_geometry(int height, int width, int in_channels, int out_channels,
                                       int doubles, int group) {
  ck_winograd_shape s = {.height = height, .width = width, .in_channels = in_channels,
                         .out_channels = out_channels, .doubles = doubles, .group = group};
  s.out_height = doubles ? 2 * height : height;
  s.out_width = doubles ? 2 * width : width;
  s.side = doubles ? 3 : 4;
  s.tile_rows = (s.out_height + 1) / 2;
  s.segments = parts_of((s.out_width + 1) / 2, WIDE);
  return s;
}

int ck_winograd_groups(const ck_winograd_shape *s) { return parts_of(s->out_channels, s->group); }

/* Floats of one of the side^2 matrices of weights. */
static size_t matrix_size(const ck_winograd_shape *s) {
  return (size_t)ck_winograd_groups(s) * s->group * s->in_channels;
}

long ck_winograd_packed_size(const ck_winograd_shape *s) {
  return (long)matrix_size(s) * s->side * s->side;
}

/* Transforms three adjacent weights to `side` values, stored `step` apart. */
static void transform_weights(const double *w, double *to, int step, int doubles) {
  const double a = w[0], b = w[step], c = w[2 * step];
  to[0] = a;
  if (doubles) {
    to[step] = a + b + c, to[2 * step] = c;
  } else {
    to[step] = (a + b + c) / 2, to[2 * step] = (a - b + c) / 2, to[3 * step] = c;
  }
}

void ck_winograd_pack_f32(float *packed, const float *weight, const ck_winograd_shape *s,
                          int group_begin, int group_end) {
  const int side = s->side, group = s->group;
  const size_t size = matrix_size(s);
  for (int o = group_begin * group; o < group_end * group; o++)
    for (int c = 0; c < s->in_channels; c++) {
      float *to = packed + ((size_t)(o / group) * s->in_channels + c) * group + o % group;
      double w[16] = {0}, across[16], both[16];
      if (o < s->out_channels)
        for (int i = 0; i < 9; i++)
          w[i / 3 * 4 + i % 3] = weight[((size_t)o * s->in_channels + c) * 9 + i];
      for (int i = 0; i < 3; i++) transform_weights(w + i * 4, across + i * 4, 1, s->doubles);
      for (int i = 0; i < side; i++) transform_weights(across + i, both + i, 4, s->doubles);
      for (int i = 0; i < side * side; i++)
        to[(size_t)i * size] = (float)both[i / side * 4 + i % side];
    }
}

/* Tiles of a panel, which is as wide as a tile of the product. */
static int panel_width(const ck_winograd_shape *s) {
  return s->group == MAX_TILE_ROWS ? 2 * LANES : LANES;
}

static int band_rows(const ck_winograd_shape *s) {
  const int most = MOST_FLOATS / (s->side * s->side * s->in_channels * WIDE * s->segments);
  return parts_of(s->tile_rows, parts_of(s->tile_rows, larger_int(1, most)));
}

/* A whole row, or the part of a long row that fits the cache. */
static int band_segments(const ck_winograd_shape *s) {
  const int panel = panel_width(s) / WIDE;
  const int most = MOST_FLOATS / (s->side * s->side * s->in_channels * WIDE);
  return smaller_int(s->segments, larger_int(1, most / panel) * panel);
}

int ck_winograd_band_count(const ck_winograd_shape *s) {
  return parts_of(s->tile_rows, band_rows(s)) * parts_of(s->segments, band_segments(s));
}

ck_winograd_band ck_winograd_band_at(const ck_winograd_shape *s, int index) {
  const int rows = band_rows(s), segments = band_segments(s), across = parts_of(s->segments, segments);
  ck_winograd_band b = {.first_row = index / across * rows, .first_segment = index % across * segments};
  b.rows = smaller_int(rows, s->tile_rows - b.first_row);
  b.segments = smaller_int(segments, s->segments - b.first_segment);
  return b;
}

static int panel_count(const ck_winograd_shape *s, const ck_winograd_band *b) {
  return parts_of(b->rows * b->segments * WIDE, panel_width(s));
}

/* One row more than there are channels: strides that are powers of two map to few cache sets. */
static size_t panel_size(const ck_winograd_shape *s) {
  return (size_t)(s->in_channels + 1) * panel_width(s);
}

long ck_winograd_band_size(const ck_winograd_shape *s, const ck_winograd_band *b) {
  return (long)(panel_count(s, b) * panel_size(s)) * s->side * s->side;
}

/* Rows of one channel that the tiles of a band read, with zeros around the plane. With doubling the columns
   keep their order; otherwise even columns come first and odd ones start at `half`. */
CK_INLINE void gather_rows(float *to, const float *x, const ck_winograd_shape *s,
                           const ck_winograd_band *b, int half, float scale, float shift, int silu) {
  const int step = s->doubles ? 1 : 2, row = half * step;
  const int rows = (b->rows - 1) * step + s->side;
  const int above = b->first_row * step - 1, left = b->first_segment * WIDE * step - 1;
  const int from = larger_int(0, -left), end = smaller_int(row, s->width - left);
  float *line = to + (size_t)rows * row;
  for (int i = 0; i < row; i++) line[i] = 0;
  for (int r = 0; r < rows; r++, to += row) {
    const int y = above + r;
    if (y < 0 || y >= s->height) {
      memset(to, 0, (size_t)row * sizeof *to);
      continue;
    }
    const float *in = x + (size_t)y * s->width + left;
    if (silu)
      for (int i = from; i < end; i++) line[i] = ck_silu(scale * in[i] + shift);
    else
      for (int i = from; i < end; i++) line[i] = in[i];
    if (step == 1) {
      memcpy(to, line, (size_t)row * sizeof *to);
      continue;
    }
    for (int i = 0; i < half; i += WIDE) {
      const v8 a = *(const v8 *)(line + 2 * i), b = *(const v8 *)(line + 2 * i + WIDE);
      *(v8 *)(to + i) = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
      *(v8 *)(to + half + i) = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
    }
  }
}

CK_INLINE void load_segments(vec *to, const float *a, const float *b) {
  v8 x = *(const v8 *)a, y = *(const v8 *)b;
  *to = __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* Value k of the input transform of four adjacent pixels, or of three with doubling. */
CK_INLINE void transform(vec *to, const vec *d, int k, int doubles) {
  if (doubles) *to = k == 0 ? d[0] - d[1] : k == 1 ? d[1] : d[2] - d[1];
  else *to = k == 0 ? d[0] - d[2] : k == 1 ? d[1] + d[2] : k == 2 ? d[2] - d[1] : d[1] - d[3];
}

/* 16 tiles; `a` and `b` are the upper left corners of two segments. */
CK_INLINE void transform_tiles(const float *a, const float *b, int half, float *v, size_t matrix,
                               int side) {
  const int doubles = side == 3, row = doubles ? half : 2 * half;
#pragma clang loop unroll(full)
  for (int k = 0; k < side; k++) {
    vec across[4];
#pragma clang loop unroll(full)
    for (int r = 0; r < side; r++) {
      vec d[4];
#pragma clang loop unroll(full)
      for (int i = 0; i < side; i++) {
        const int at = r * row + (doubles ? i : (i & 1) * half + (i >> 1));
        load_segments(d + i, a + at, b + at);
      }
      transform(across + r, d, k, doubles);
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < side; r++)
      transform((vec *)(v + (size_t)(r * side + k) * matrix), across, r, doubles);
  }
}

CK_CLONES void ck_winograd_transform_f32(float *v, const float *x, const float *scale,
                                         const float *shift, const ck_winograd_shape *s,
                                         const ck_winograd_band *b, int channel_begin,
                                         int channel_end) {
  const int step = s->doubles ? 1 : 2, half = (b->segments + 1) * WIDE, row = half * step;
  const int width = panel_width(s), count = b->rows * b->segments;
  const size_t panel = panel_size(s), matrix = panel * panel_count(s, b);
  const size_t plane = (size_t)s->height * s->width;
  float *rows = scratch((size_t)((b->rows - 1) * step + s->side + 1) * row);
  for (int c = channel_begin; c < channel_end; c++) {
    if (scale) gather_rows(rows, x + c * plane, s, b, half, scale[c], shift[c], 1);
    else gather_rows(rows, x + c * plane, s, b, half, 1, 0, 0);
    for (int i = 0; i < panel_count(s, b) * width / WIDE; i += 2) {
      const float *from[2];
      for (int j = 0; j < 2; j++) {
        const int at = i + j < count ? i + j : 0;
        from[j] = rows + (size_t)(at / b->segments * step) * row + at % b->segments * WIDE;
      }
      const int tile = i * WIDE;
      float *to = v + tile / width * panel + (size_t)c * width + tile % width;
      if (s->doubles) transform_tiles(from[0], from[1], half, to, matrix, 3);
      else transform_tiles(from[0], from[1], half, to, matrix, 4);
    }
  }
}

/* Output i (0 or 1) of the output transform of `side` products. */
CK_INLINE void sum_products(vec *to, const vec *m, int i, int doubles) {
  if (doubles) *to = m[i] + m[i + 1];
  else *to = i == 0 ? m[0] + m[1] + m[2] : m[1] - m[2] - m[3];
}

/* Stores the pixels of one output channel in 16 tiles: two segments, the first at index `at` of the band. */
CK_INLINE void store_tiles(float *out, const float *residual, const float *m, size_t matrix, int at,
                           float bias, const ck_winograd_shape *s, const ck_winograd_band *b,
                           int side, int relu) {
  vec down[2][4];
#pragma clang loop unroll(full)
  for (int k = 0; k < side; k++) {
    vec column[4];
#pragma clang loop unroll(full)
    for (int r = 0; r < side; r++) column[r] = *(const vec *)(m + (size_t)(r * side + k) * matrix);
    for (int i = 0; i < 2; i++) sum_products(&down[i][k], column, i, side == 3);
  }
  for (int i = 0; i < 2; i++) {
    vec even, odd;
    sum_products(&even, down[i], 0, side == 3);
    sum_products(&odd, down[i], 1, side == 3);
    even += bias, odd += bias;
    const vec pixels[2] = {
        __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
        __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                31)};
    for (int j = 0; j < 2 && at + j < b->rows * b->segments; j++) {
      const int y = 2 * (b->first_row + (at + j) / b->segments) + i;
      const int x = 2 * WIDE * (b->first_segment + (at + j) % b->segments);
      if (y >= s->out_height) continue;
      const size_t pixel = (size_t)y * s->out_width + x;
      store_pixels(out + pixel, residual ? residual + pixel : NULL, (const float *)(pixels + j),
                   s->out_width - x, relu);
    }
  }
}

/* The product of one of the side^2 pairs of matrices, for `groups` and `panels`; both operands are packed. */
CK_INLINE void multiply_matrix(float *m, const float *u, const float *v, const ck_winograd_shape *s,
                               int groups, int panels, size_t group, size_t width) {
  const size_t channels = (size_t)s->in_channels, row = panels * width;
  const size_t parts = (channels + MOST_DEPTH - 1) / MOST_DEPTH;
  for (size_t part = 0; part < parts; part++) {
    const size_t from = channels * part / parts, depth = channels * (part + 1) / parts - from;
    for (int j = 0; j < panels; j++)
      for (int g = 0; g < groups; g++) {
#define TILE(ROWS, VECS)                                                                           \
  packed_tile(ROWS, VECS, u + (g * channels + from) * ROWS, v + j * panel_size(s) + from * width,  \
              m + g * ROWS * row + j * width, row, depth, part > 0)
        if (group == MAX_TILE_ROWS) TILE(MAX_TILE_ROWS, 2);
        else TILE(SMALL_TILE_ROWS, 1);
#undef TILE
      }
  }
}

CK_CLONES void ck_winograd_multiply_f32(float *out, const float *v, const float *packed,
                                        const float *bias, const float *residual,
                                        const ck_winograd_shape *s, const ck_winograd_band *b,
                                        int group_begin, int group_end, int relu) {
  const int side = s->side, group = s->group, width = panel_width(s);
  const int panels = panel_count(s, b), step = MOST_TILES / width, most = MOST_OUTS / group;
  const size_t plane = (size_t)s->out_height * s->out_width, channels = (size_t)s->in_channels;
  const size_t product = (size_t)MOST_OUTS * MOST_TILES + LANES;
  float *m = scratch(product * side * side);
  for (int g = group_begin; g < group_end; g += most)
    for (int j = 0; j < panels; j += step) {
      const int groups = smaller_int(most, group_end - g), wide = smaller_int(step, panels - j);
      for (int i = 0; i < side * side; i++) {
        const float *u = packed + i * matrix_size(s) + g * channels * group;
        const float *from = v + (size_t)(i * panels + j) * panel_size(s);
        if (group == MAX_TILE_ROWS)
          multiply_matrix(m + i * product, u, from, s, groups, wide, MAX_TILE_ROWS, 2 * LANES);
        else
          multiply_matrix(m + i * product, u, from, s, groups, wide, SMALL_TILE_ROWS, LANES);
      }
      for (int o = g * group; o < smaller_int((g + groups) * group, s->out_channels); o++)
        for (int t = 0; t < wide * width; t += LANES) {
          const float *from = m + (size_t)(o - g * group) * wide * width + t;
          const int at = (j * width + t) / WIDE;
          float *to = out + o * plane;
          const float *plus = residual ? residual + o * plane : NULL;
          if (s->doubles) store_tiles(to, plus, from, product, at, bias[o], s, b, 3, relu);
          else store_tiles(to, plus, from, product, at, bias[o], s, b, 4, relu);
        }
    }
}
