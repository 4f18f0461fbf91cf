#include "ck_conv.h"
#include "ck_pixels.h"
#include "ck_tile.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A vector holds 16 neighbouring pixels of a row, or pairs of channels in their place. */

enum { TAPS = 9, SUMMED_TAPS = 4, OUTS = 8, SEGMENTS = 3, WIDE = 16 };

/* Index of the weights of a tile for each tap. */
typedef struct {
  int count;
  long at[TAPS];
} taps;

static int groups_of(int out_channels) { return (out_channels + OUTS - 1) / OUTS; }
static int pairs_of(int in_channels) { return (in_channels + 1) / 2; }

long ck_conv3x3_packed_size_bf16(int out_channels, int in_channels, int doubles) {
  return (long)groups_of(out_channels) * OUTS * pairs_of(in_channels) *
         (doubles ? 4 * SUMMED_TAPS : TAPS);
}

/* The weight of one tap. With doubling, that of output pixel `phase` (0 to 3) of an input pixel: for upper and
   left pixels the first tap is one weight and the second the sum of two; for the others the reverse. */
static float weight_of(const float *w, int tap, int phase, int doubles) {
  if (!doubles) return w[tap];
  const int lower = phase / 2, right = phase % 2, ty = tap / 2, tx = tap % 2;
  double sum = 0;
  for (int y = ty ? 1 + lower : 0; y <= (ty ? 2 : lower); y++)
    for (int x = tx ? 1 + right : 0; x <= (tx ? 2 : right); x++) sum += w[y * 3 + x];
  return (float)sum;
}

void ck_conv3x3_pack_bf16(uint32_t *packed, const float *weight, int out_channels, int in_channels,
                          int doubles) {
  for (int group = 0; group < groups_of(out_channels); group++)
    for (int phase = 0; phase < (doubles ? 4 : 1); phase++)
      for (int c = 0; c < in_channels; c += 2)
        for (int tap = 0; tap < (doubles ? SUMMED_TAPS : TAPS); tap++)
          for (int o = group * OUTS; o < (group + 1) * OUTS; o++) {
            const float *w = weight + ((long)o * in_channels + c) * TAPS;
            uint32_t pair = 0;
            if (o < out_channels) pair = ck_bfloat16_bits(weight_of(w, tap, phase, doubles));
            if (o < out_channels && c + 1 < in_channels)
              pair |= ck_bfloat16_bits(weight_of(w + TAPS, tap, phase, doubles)) << 16;
            *packed++ = pair;
          }
}

/* Adds the products of all pairs to the sums of HEIGHT output channels of WIDTH segments. */
#define BF16_TILE(HEIGHT, WIDTH, DOT)                                                              \
  {                                                                                                \
    vec a[HEIGHT][WIDTH];                                                                          \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < HEIGHT; i++)                            \
        _Pragma("clang loop unroll(full)") for (int j = 0; j < WIDTH; j++) a[i][j] =               \
            sums[i * SEGMENTS + j];                                                                \
    for (int c = 0; c < pairs; c++)                                                                \
      for (int tap = 0; tap < t->count; tap++, w += OUTS) {                                        \
        const long at = c * plane + t->at[tap];                                                    \
        words x[WIDTH];                                                                              \
        _Pragma("clang loop unroll(full)") for (int j = 0; j < WIDTH; j++) x[j] =                  \
            *(const words *)(from[j] + at);                                                          \
        _Pragma("clang loop unroll(full)") for (int i = 0; i < HEIGHT; i++)                        \
            _Pragma("clang loop unroll(full)") for (int j = 0; j < WIDTH; j++)                     \
                DOT(a[i][j], w[i], x[j]);                                                          \
      }                                                                                            \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < HEIGHT; i++)                            \
        _Pragma("clang loop unroll(full)") for (int j = 0; j < WIDTH; j++)                         \
            sums[i * SEGMENTS + j] = a[i][j];                                                      \
  }

typedef void tile_function(vec *sums, const uint32_t *const *from, const uint32_t *w, int pairs,
                           long plane, const taps *t);

CK_INLINE void part_emulated(vec *sums, const uint32_t *const *from, const uint32_t *w, int pairs,
                          long plane, const taps *t) {
  BF16_TILE(4, 1, CK_MULTIPLY_ADD_PAIRS)
}

/* The same sums in as many registers as any CPU has; the last bits may differ. */
CK_CLONES static void tile_emulated(vec *sums, const uint32_t *const *from, const uint32_t *w, int pairs,
                                 long plane, const taps *t) {
  for (int i = 0; i < OUTS; i += 4)
    for (int j = 0; j < SEGMENTS; j++)
      part_emulated(sums + i * SEGMENTS + j, from + j, w + i, pairs, plane, t);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bf16"))) static void tile_native(
    vec *sums, const uint32_t *const *from, const uint32_t *w, int pairs, long plane, const taps *t) {
  BF16_TILE(OUTS, SEGMENTS, CK_MULTIPLY_ADD_PAIRS_NATIVE)
}

#else
#define tile_native tile_emulated
#endif

CK_CLONES void ck_conv3x3_forward_bf16(float *out, const uint32_t *planes, const uint32_t *packed,
                                       const float *bias, const float *residual,
                                       const ck_conv3x3_shape *s, int in_channels,
                                       int out_channels, int doubles, int row_begin, int row_end,
                                       int relu, int native) {
  tile_function *const tile = native ? tile_native : tile_emulated;
  const int pairs = pairs_of(in_channels), phases = doubles ? 2 : 1;
  const int per_row = (s->out_width + WIDE - 1) / WIDE, width = s->out_width * phases;
  const long plane = ck_conv3x3_plane_size(s), out_plane = (long)s->out_height * phases * width;
  const int first = row_begin * per_row, last = row_end * per_row;
  const long one = (long)pairs * (doubles ? SUMMED_TAPS : TAPS) * OUTS; /* weights of a tile */
  taps t = {.count = doubles ? SUMMED_TAPS : TAPS};
  for (int i = 0; i < TAPS; i++)
    t.at[i] = doubles       ? (i / 2) * s->row + i % 2
              : s->stride == 1 ? (i / 3) * s->row + i % 3
                               : (i / 3) * s->row + (i % 3 & 1) * s->half + (i % 3 >> 1);
  for (int group = 0; group < groups_of(out_channels); group++) {
    const uint32_t *w = packed + group * one * phases * phases;
    const int o = group * OUTS, outs = out_channels - o < OUTS ? out_channels - o : OUTS;
    for (int segment = first; segment < last; segment += SEGMENTS) {
      const int count = last - segment < SEGMENTS ? last - segment : SEGMENTS;
      for (int lower = 0; lower < phases; lower++) {
        vec sums[2][OUTS * SEGMENTS];
        for (int right = 0; right < phases; right++) {
          const uint32_t *from[SEGMENTS];
          for (int j = 0; j < SEGMENTS; j++) {
            int at = segment + (j < count ? j : 0);
            from[j] = planes + (long)(at / per_row * s->stride + lower) * s->row +
                      at % per_row * WIDE + right;
          }
          for (int i = 0; i < OUTS * SEGMENTS; i++)
            sums[right][i] = (vec){0} + (i / SEGMENTS < outs ? bias[o + i / SEGMENTS] : 0);
          tile(sums[right], from, w + one * (lower * 2 + right), pairs, plane, &t);
        }
        for (int i = 0; i < outs * SEGMENTS; i++) {
          const int at = segment + i % SEGMENTS;
          if (i % SEGMENTS >= count) continue;
          const int y = at / per_row * phases + lower, x = at % per_row * WIDE * phases;
          const long pixel = (o + i / SEGMENTS) * out_plane + (long)y * width + x;
          const float *plus = residual ? residual + pixel : NULL;
          if (!doubles) {
            store_pixels(out + pixel, plus, (const float *)&sums[0][i], width - x, relu);
            continue;
          }
          const vec left = sums[0][i], right = sums[1][i];
          const vec both[2] = {__builtin_shufflevector(left, right, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                                       5, 21, 6, 22, 7, 23),
                               __builtin_shufflevector(left, right, 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                       28, 13, 29, 14, 30, 15, 31)};
          store_pixels(out + pixel, plus, (const float *)both, width - x, relu);
          if (width - x > WIDE)
            store_pixels(out + pixel + WIDE, plus ? plus + WIDE : NULL, (const float *)(both + 1),
                         width - x - WIDE, relu);
        }
      }
    }
  }
}
