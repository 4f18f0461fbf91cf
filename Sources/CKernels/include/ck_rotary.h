#pragma once
#include <stddef.h>

/* Rotates neighbouring channels (2i, 2i + 1) of every head in place: x (tokens, stride) has `heads` heads of `width`
   channels from its first column, table (tokens, width) holds cosine and sine of every pair. direction is 1, or -1
   for the inverse. */
void ck_rotate_pairs_f32(float *x, size_t stride, const float *table, float direction,
                         size_t tokens, size_t heads, size_t width);
