#include "ck_conv.h"
#include "ck_internal.h"

/* Eight neighbouring pixels of a row. */
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

enum { TAPS = 9, OUTS = 4, SEGMENTS = 2, WIDE = 8 };

/* Rounds a width up to whole segments, which are twice as long in bfloat16. */
static int whole_segments(int n) { return (n + 2 * WIDE - 1) / (2 * WIDE) * (2 * WIDE); }

ck_conv3x3_shape ck_conv3x3_geometry(int height, int width, int stride, int pad) {
  ck_conv3x3_shape s = {.height = height, .width = width, .stride = stride, .pad = pad};
  s.rows = height + pad + 1;
  s.out_height = (s.rows - 3) / stride + 1;
  s.out_width = (width + pad + 1 - 3) / stride + 1;
  /* The last segment may extend beyond the last pixel, so rows are padded to whole segments. */
  s.half = stride == 2 ? whole_segments(s.out_width) + WIDE : 0;
  s.row = stride == 2 ? 2 * s.half : whole_segments(s.out_width) + WIDE;
  return s;
}

long ck_conv3x3_plane_size(const ck_conv3x3_shape *s) { return (long)s->rows * s->row; }

/* A float, or a pair of bfloat16. */
typedef uint32_t __attribute__((may_alias)) element;

/* Stores a line of the input as row y of a padded plane. */
CK_INLINE void place(element *dst, const element *line, const ck_conv3x3_shape *s, int y) {
  element *to = dst + (long)(y + s->pad) * s->row;
  memset(to, 0, (size_t)s->row * 4);
  if (s->stride == 2) {
    /* Even columns first, then odd ones, so that a stride of two reads neighbours. */
    for (int odd = 0; odd < 2; odd++) {
      const int shift = odd - s->pad, end = (s->width - shift + 1) / 2;
      for (int i = shift < 0; i < end; i++) to[odd * s->half + i] = line[2 * i + shift];
    }
  } else {
    memcpy(to + s->pad, line, (size_t)s->width * 4);
  }
}

CK_INLINE void clear_edges(element *dst, const ck_conv3x3_shape *s) {
  if (s->pad) memset(dst, 0, (size_t)s->row * 4);
  memset(dst + (long)(s->rows - 1) * s->row, 0, (size_t)s->row * 4);
}

CK_INLINE void activate(float *line, const float *x, int width, float scale, float shift, int silu) {
  if (silu)
    for (int i = 0; i < width; i++) line[i] = ck_silu(scale * x[i] + shift);
  else
    for (int i = 0; i < width; i++) line[i] = scale * x[i] + shift;
}

CK_CLONES void ck_conv3x3_fill_f32(float *dst, const float *src, const ck_conv3x3_shape *s,
                                float scale, float shift, int silu) {
  const int width = s->width;
  float line[width];
  for (int y = 0; y < s->height; y++, src += width) {
    activate(line, src, width, scale, shift, silu);
    place((element *)dst, (const element *)line, s, y);
  }
  clear_edges((element *)dst, s);
}

CK_CLONES void ck_conv3x3_fill_bf16(uint32_t *dst, const float *src, int count,
                                    const ck_conv3x3_shape *s, const float *scale,
                                    const float *shift) {
  const int width = s->width;
  const long plane = (long)s->height * width;
  float line[width];
  uint32_t pairs[width];
  for (int y = 0; y < s->height; y++, src += width) {
    activate(line, src, width, scale ? scale[0] : 1, scale ? shift[0] : 0, scale != NULL);
    for (int x = 0; x < width; x++) pairs[x] = ck_bfloat16_bits(line[x]);
    if (count == 2) {
      activate(line, src + plane, width, scale ? scale[1] : 1, scale ? shift[1] : 0,
               scale != NULL);
      for (int x = 0; x < width; x++) pairs[x] |= ck_bfloat16_bits(line[x]) << 16;
    }
    place(dst, pairs, s, y);
  }
  clear_edges(dst, s);
}

long ck_conv3x3_packed_size(int out_channels, int in_channels) {
  return (long)((out_channels + OUTS - 1) / OUTS) * OUTS * in_channels * TAPS;
}

void ck_conv3x3_pack_f32(float *packed, const float *weight, int out_channels, int in_channels) {
  for (int group = 0; group * OUTS < out_channels; group++)
    for (int c = 0; c < in_channels; c++)
      for (int tap = 0; tap < TAPS; tap++)
        for (int i = 0; i < OUTS; i++) {
          int o = group * OUTS + i;
          *packed++ = o < out_channels ? weight[((long)o * in_channels + c) * TAPS + tap] : 0;
        }
}

/* Four output channels of two segments: eight accumulators, two inputs and a weight fit the sixteen
   registers of AVX2 and just cover the latency of its multiply-add. */
CK_INLINE void tile(
    v8 sums[OUTS][SEGMENTS], const float *p0, const float *p1, const float *w, int in_channels,
    long plane, long row, int stride, int half) {
  v8 a00 = sums[0][0], a01 = sums[0][1];
  v8 a10 = sums[1][0], a11 = sums[1][1];
  v8 a20 = sums[2][0], a21 = sums[2][1];
  v8 a30 = sums[3][0], a31 = sums[3][1];
  for (int c = 0; c < in_channels; c++) {
#pragma clang loop unroll(full)
    for (int tap = 0; tap < TAPS; tap++) {
      const int kx = tap % 3;
      const long at = (tap / 3) * row + (stride == 1 ? kx : (kx & 1) * half + (kx >> 1));
      v8 x0 = *(const v8 *)(p0 + at), x1 = *(const v8 *)(p1 + at);
      float w0 = w[tap * OUTS], w1 = w[tap * OUTS + 1];
      float w2 = w[tap * OUTS + 2], w3 = w[tap * OUTS + 3];
      a00 += w0 * x0, a01 += w0 * x1;
      a10 += w1 * x0, a11 += w1 * x1;
      a20 += w2 * x0, a21 += w2 * x1;
      a30 += w3 * x0, a31 += w3 * x1;
      __asm__ volatile("" ::: "memory"); /* no early load of the next tap: it spills registers */
    }
    p0 += plane, p1 += plane, w += TAPS * OUTS;
  }
  sums[0][0] = a00, sums[0][1] = a01;
  sums[1][0] = a10, sums[1][1] = a11;
  sums[2][0] = a20, sums[2][1] = a21;
  sums[3][0] = a30, sums[3][1] = a31;
}

CK_CLONES void ck_conv3x3_forward_f32(float *out, const float *planes, const float *packed,
                                   const float *bias, const float *residual,
                                   const ck_conv3x3_shape *s, int in_channels, int out_channels,
                                   int row_begin, int row_end, int relu) {
  const long row = s->row, plane = ck_conv3x3_plane_size(s);
  const int width = s->out_width, per_row = (width + WIDE - 1) / WIDE;
  const long out_plane = (long)s->out_height * width;
  const int first = row_begin * per_row, last = row_end * per_row;
  for (int o = 0; o < out_channels; o += OUTS) {
    const float *w = packed + (long)o * in_channels * TAPS;
    const int outs = out_channels - o < OUTS ? out_channels - o : OUTS;
    for (int segment = first; segment < last; segment += SEGMENTS) {
      const int count = last - segment < SEGMENTS ? last - segment : SEGMENTS;
      const float *from[SEGMENTS];
      for (int j = 0; j < SEGMENTS; j++) {
        int at = segment + (j < count ? j : 0);
        from[j] = planes + (long)(at / per_row) * s->stride * row + (at % per_row) * WIDE;
      }
      v8 sums[OUTS][SEGMENTS];
      for (int i = 0; i < OUTS; i++)
        for (int j = 0; j < SEGMENTS; j++) sums[i][j] = (v8){0} + (i < outs ? bias[o + i] : 0);
      if (s->stride == 1)
        tile(sums, from[0], from[1], w, in_channels, plane, row, 1, 0);
      else
        tile(sums, from[0], from[1], w, in_channels, plane, row, 2, s->half);
      for (int i = 0; i < outs; i++)
        for (int j = 0; j < count; j++) {
          const int y = (segment + j) / per_row, x = (segment + j) % per_row * WIDE;
          const int n = width - x < WIDE ? width - x : WIDE;
          const long at = (o + i) * out_plane + (long)y * width + x;
          v8 value = sums[i][j];
          if (n == WIDE) {
            if (residual) value += *(const v8 *)(residual + at);
            if (relu) value = __builtin_elementwise_max(value, (v8){0});
            *(v8 *)(out + at) = value;
            continue;
          }
          for (int k = 0; k < n; k++) {
            float one = value[k] + (residual ? residual[at + k] : 0);
            out[at + k] = relu && !(one > 0) ? 0 : one;
          }
        }
    }
  }
}
