#pragma once
#include <stddef.h>
#include <stdint.h>

/* Layer norm without affine, then y = xhat * (1 + scale) + shift; x, y (tokens, dim) of one batch
   item, y in bfloat16 or float32, shift and scale (dim), mean and rstd (tokens) are kept for the backward
   pass. */
void ck_layernorm_modulate_forward(const float *x, const float *shift, const float *scale, float eps,
                                   void *y, int is_bfloat16, float *mean, float *rstd, size_t tokens,
                                   size_t dim);
/* dx (or NULL), dshift[d] += sum_n dy, dscale[d] += sum_n dy * xhat (or NULL). */
void ck_layernorm_modulate_backward_f32(const float *dy, const float *x, const float *scale,
                                        const float *mean, const float *rstd, float *dx,
                                        float *dshift, float *dscale, size_t tokens, size_t dim,
                                        int accumulate);

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
