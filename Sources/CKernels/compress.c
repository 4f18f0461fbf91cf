#include "ck_compress.h"
#include "ck_internal.h"

enum { TILE = 64, MAX_FACTOR = 8 };

/* Copies the taps of channels c0 ..< c0 + n so that one tap is contiguous over channels. */
CK_INLINE void gather(const float *weight, float tap[][TILE], size_t c0, size_t n, size_t taps) {
  for (size_t j = 0; j < taps; j++)
    for (size_t c = 0; c < n; c++) tap[j][c] = weight[(c0 + c) * taps + j];
}

CK_CLONES void ck_token_compression_forward_f32(const float *restrict x,
                                                const float *restrict weight,
                                                const float *restrict bias, float *restrict y,
                                                const ck_compression_shape *shape) {
  const size_t f = shape->factor, taps = f * f, columns = shape->columns / f;
  float tap[MAX_FACTOR * MAX_FACTOR][TILE];
  for (size_t c0 = 0; c0 < shape->dim; c0 += TILE) {
    const size_t n = shape->dim - c0 < TILE ? shape->dim - c0 : TILE;
    gather(weight, tap, c0, n, taps);
    for (size_t token = 0; token < shape->rows / f * columns; token++) {
      const float *from =
          x + (token / columns * f * shape->columns + token % columns * f) * shape->stride + c0;
      float *to = y + token * shape->out_stride + c0;
      for (size_t c = 0; c < n; c++) to[c] = bias[c0 + c];
      for (size_t j = 0; j < taps; j++) {
        const float *in = from + (j / f * shape->columns + j % f) * shape->stride;
        for (size_t c = 0; c < n; c++) to[c] += tap[j][c] * in[c];
      }
    }
  }
}

CK_CLONES void ck_token_compression_backward_f32(const float *restrict x,
                                                 const float *restrict weight,
                                                 const float *restrict dy, float *restrict dx,
                                                 float *restrict dweight, float *restrict dbias,
                                                 const ck_compression_shape *shape) {
  const size_t f = shape->factor, taps = f * f, columns = shape->columns / f;
  float tap[MAX_FACTOR * MAX_FACTOR][TILE], sum[MAX_FACTOR * MAX_FACTOR][TILE], total[TILE];
  for (size_t c0 = 0; c0 < shape->dim; c0 += TILE) {
    const size_t n = shape->dim - c0 < TILE ? shape->dim - c0 : TILE;
    gather(weight, tap, c0, n, taps);
    memset(sum, 0, taps * sizeof sum[0]);
    memset(total, 0, sizeof total);
    for (size_t token = 0; token < shape->rows / f * columns; token++) {
      const size_t first =
          (token / columns * f * shape->columns + token % columns * f) * shape->stride + c0;
      const float *g = dy + token * shape->out_stride + c0;
      if (dbias)
        for (size_t c = 0; c < n; c++) total[c] += g[c];
      for (size_t j = 0; j < taps; j++) {
        const size_t at = first + (j / f * shape->columns + j % f) * shape->stride;
        if (dx)
          for (size_t c = 0; c < n; c++) dx[at + c] += tap[j][c] * g[c];
        if (dweight)
          for (size_t c = 0; c < n; c++) sum[j][c] += g[c] * x[at + c];
      }
    }
    if (!dweight) continue;
    for (size_t c = 0; c < n; c++) {
      dbias[c0 + c] += total[c];
      for (size_t j = 0; j < taps; j++) dweight[(c0 + c) * taps + j] += sum[j][c];
    }
  }
}
