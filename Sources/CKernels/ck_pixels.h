#pragma once
#include "ck_internal.h"

/* Stores a row of 16 pixels of a convolution, of which `count` are within the image: residual (or NULL) added,
   negative ones set to 0 if `relu`. */
CK_INLINE void store_pixels(float *out, const float *residual, const float *pixels, int count, int relu) {
  typedef float row __attribute__((vector_size(64), aligned(4), may_alias));
  row value = *(const row *)pixels;
  if (count >= 16) {
    if (residual) value += *(const row *)residual;
    if (relu) value = __builtin_elementwise_max(value, (row){0});
    *(row *)out = value;
    return;
  }
  for (int i = 0; i < count; i++) {
    float one = value[i] + (residual ? residual[i] : 0);
    out[i] = relu && !(one > 0) ? 0 : one;
  }
}
