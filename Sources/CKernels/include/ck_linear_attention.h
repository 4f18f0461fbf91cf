#pragma once
#include <stddef.h>

/* Non-causal linear attention of one head of one batch item, phi(x) = elu(x) + 1:
     out_i = phi(q_i) S / (phi(q_i) . z + 1e-6),  S = sum_j phi(k_j)^T v_j,  z = sum_j phi(k_j).
   Pointers and strides as in ck_attention.h; time and memory grow with tokens, not their square. */
void ck_linear_attention_forward_f32(const float *q, const float *k, const float *v, size_t stride,
                                     float *out, size_t out_stride, size_t tokens,
                                     size_t head_dim);
void ck_linear_attention_backward_f32(const float *q, const float *k, const float *v,
                                      size_t stride, const float *out, const float *dout,
                                      size_t out_stride, float *dq, float *dk, float *dv,
                                      size_t tokens, size_t head_dim);
