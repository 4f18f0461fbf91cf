#include "ck_internal.h"
#include "ck_rotary.h"

CK_CLONES void ck_rotate_pairs_f32(float *restrict x, size_t stride, const float *restrict table,
                                   float direction, size_t tokens, size_t heads, size_t width) {
  for (size_t n = 0; n < tokens; n++) {
    const float *angles = table + n * width;
    for (size_t head = 0; head < heads; head++) {
      float *row = x + n * stride + head * width;
      for (size_t i = 0; i < width; i += 2) {
        float c = angles[i], s = direction * angles[i + 1], a = row[i], b = row[i + 1];
        row[i] = a * c - b * s;
        row[i + 1] = b * c + a * s;
      }
    }
  }
}
