#pragma once
#include <stddef.h>

/* Attention of one head of one batch item to a window of the token grid, `window_rows` x `window_columns`
   (at most the grid), centred at the query and shifted into the grid at its borders. With `far`, all other
   keys take part by linear attention, normalised together:
     y_i = (m sum_near exp(s_ij) v_j + (1 - m) sum_far f_ij v_j) / (the same sums without v),
     s_ij = scale q_i k_j,  f_ij = phi(q_i) phi(k_j) / head_dim,  phi = elu + 1,  m = mix.
   Without it mix is 1. */
typedef struct {
  size_t rows, columns, window_rows, window_columns, head_dim;
  size_t stride, out_stride; /* elements between rows of q, k and v; of out */
  float scale, mix;
  int far;
} ck_neighborhood_shape;

/* q, k, v, out and their gradients point at the first element of the head's columns. lse (tokens): logarithm
   of the denominators, kept for the backward pass. */
void ck_neighborhood_forward_f32(const float *q, const float *k, const float *v, float *out, float *lse,
                                 const ck_neighborhood_shape *shape);
/* Stores dq, dk and dv; returns the gradient by `mix`. */
float ck_neighborhood_backward_f32(const float *q, const float *k, const float *v, const float *out,
                                   const float *dout, const float *lse, float *dq, float *dk, float *dv,
                                   const ck_neighborhood_shape *shape);
