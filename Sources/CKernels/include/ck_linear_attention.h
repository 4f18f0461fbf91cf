#pragma once
#include <stddef.h>

/* Feature maps: elu(x) + 1, max(x, 0), and the softmax over the channels of (x, -x), twice as many features. */
enum { CK_FEATURES_ELU1 = 0, CK_FEATURES_RELU = 1, CK_FEATURES_EXP_PAIR = 2 };

/* Linear attention of one head of one batch item; q, k, v and their gradients point at the first element of
   the head's columns and have rows `stride` apart; out and dout have rows `out_stride` apart. The gradients
   are stored. */
void ck_linear_attention_forward_f32(int map, const float *q, const float *k, const float *v,
                                     size_t stride, float *out, size_t out_stride, size_t tokens,
                                     size_t head_dim);
void ck_linear_attention_backward_f32(int map, const float *q, const float *k, const float *v,
                                      size_t stride, const float *out, const float *dout,
                                      size_t out_stride, float *dq, float *dk, float *dv, size_t tokens,
                                      size_t head_dim);
