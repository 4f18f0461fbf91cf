#pragma once
#include <stddef.h>

/* y = SiLU(a) b, element by element: a and b have rows of `stride` elements, y rows of `y_stride`. */
void ck_swiglu_forward_f32(const float *a, const float *b, size_t stride, float *y, size_t y_stride,
                           size_t rows, size_t width);
/* da and db, in rows of `d_stride`, are stored. */
void ck_swiglu_backward_f32(const float *dy, const float *a, const float *b, size_t stride,
                            float *da, float *db, size_t d_stride, size_t rows, size_t width);
