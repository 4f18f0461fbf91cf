#pragma once
#include <stddef.h>
#include <stdint.h>

/* How one head of one batch item lies in memory, and which keys a query sees. */
typedef struct {
  size_t tokens, head_dim;   /* head_dim even */
  size_t stride, out_stride; /* elements between rows of q, k, v and of their gradients; between rows of
                                out and dout; both even */
  float scale;
  size_t left, right; /* query i sees keys i-left ... i+right (clipped) */
} ck_rounded_attention_shape;

/* Softmax attention of one head of one batch item on bfloat16, scores and sums in float32, softmax
   weights rounded for the product with v. q, k, v, out, dout, dq, dk, dv: first element of the head's
   columns; lse (tokens): log-sum-exp of the scaled scores. `native` uses the dot products of
   AVX512-BF16, which the CPU must have. */
void ck_attention_forward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                               uint16_t *out, float *lse, const ck_rounded_attention_shape *shape,
                               int native);
void ck_attention_backward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                const uint16_t *out, const float *dout, const float *lse, float *dq,
                                float *dk, float *dv, const ck_rounded_attention_shape *shape,
                                int native);
