#include "ck_groupnorm.h"
#include "ck_internal.h"

enum { LANES = 32, PART = 8192 };

/* Adds up x - center or its square: float lanes inside parts of bounded length, doubles across. */
CK_CLONES static double sum_f32(const float *x, long count, float center, int squares) {
  double total = 0;
  for (long start = 0; start < count; start += PART) {
    long end = start + PART < count ? start + PART : count;
    float lanes[LANES] = {0};
    long i = start;
    for (; i + LANES <= end; i += LANES)
      for (int j = 0; j < LANES; j++) {
        float d = x[i + j] - center;
        lanes[j] += squares ? d * d : d;
      }
    for (; i < end; i++) {
      float d = x[i] - center;
      lanes[0] += squares ? d * d : d;
    }
    for (int j = 0; j < LANES; j++) total += lanes[j];
  }
  return total;
}

void ck_groupnorm_moments_f32(float *mean, float *rstd, const float *x, long count, float eps) {
  double m = sum_f32(x, count, 0, 0) / (double)count;
  float center = (float)m;
  double variance = sum_f32(x, count, center, 1) / (double)count;
  *mean = center;
  *rstd = (float)(1 / sqrt(variance + (double)eps));
}

CK_CLONES void ck_scale_shift_silu_forward_f32(float *y, const float *x, long count, float scale,
                                            float shift, int silu) {
  if (silu)
    for (long i = 0; i < count; i++) y[i] = ck_silu(scale * x[i] + shift);
  else
    for (long i = 0; i < count; i++) y[i] = scale * x[i] + shift;
}
