#pragma once

/* Mean and 1 / sqrt(variance + eps) of x (count), two passes. */
void ck_groupnorm_moments_f32(float *mean, float *rstd, const float *x, long count, float eps);

/* y = f(scale x + shift) with f = SiLU if silu is not 0; y may be x. */
void ck_scale_shift_silu_forward_f32(float *y, const float *x, long count, float scale,
                                     float shift, int silu);
