#pragma once
#include <stddef.h>

/* y = (x - mean) rstd weight + bias of each row (rows, width); mean is 0 unless `centred`, rstd = 1 / sqrt(mean of
   (x - mean)^2 + eps). bias may be NULL. mean and rstd (rows) are kept for the backward pass. */
void ck_row_norm_forward_f32(const float *x, const float *weight, const float *bias, int centred,
                             float eps, float *y, float *mean, float *rstd, size_t rows, size_t width);
/* dx (or NULL; stored, or added if accumulate), dweight and dbias (or NULL) are added to. */
void ck_row_norm_backward_f32(const float *dy, const float *x, const float *weight, int centred,
                              const float *mean, const float *rstd, float *dx, int accumulate,
                              float *dweight, float *dbias, size_t rows, size_t width);
