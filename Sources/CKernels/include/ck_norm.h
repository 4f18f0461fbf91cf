#pragma once
#include <stddef.h>
#include <stdint.h>

/* y = (x - mean) rstd weight + bias of each row (rows, width), in float32 or with a bias in bfloat16; mean is 0 unless
   `centred`, rstd = 1 / sqrt(mean of (x - mean)^2 + eps). bias may be NULL. mean and rstd (rows) are kept for the
   backward pass. */
void ck_row_norm_forward(const float *x, const float *weight, const float *bias, int centred, float eps,
                         void *y, int is_bfloat16, float *mean, float *rstd, size_t rows, size_t width);
/* dx (or NULL; stored, or added if accumulate), dweight and dbias (or NULL) are added to. */
void ck_row_norm_backward_f32(const float *dy, const float *x, const float *weight, int centred,
                              const float *mean, const float *rstd, float *dx, int accumulate,
                              float *dweight, float *dbias, size_t rows, size_t width);

/* Root mean square norm of g = y SiLU(z) within each of `groups` equal parts of a row, times weight
   (dim): out (rows, dim), rstd (rows, groups) is kept for the backward pass. */
void ck_gated_rmsnorm_forward_f32(const float *y, const float *z, const float *weight,
                                  float eps, float *out, float *rstd,
                                  size_t rows, size_t dim, size_t groups);
/* dy and dz (or NULL; stored, or added if accumulate), dweight is added to (or NULL). */
void ck_gated_rmsnorm_backward_f32(const float *dout, const float *y, const float *z,
                                   const float *weight, const float *rstd, float *dy, int add_y,
                                   float *dz, int add_z, float *dweight, size_t rows, size_t dim,
                                   size_t groups);
