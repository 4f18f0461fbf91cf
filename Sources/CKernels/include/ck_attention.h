#pragma once
#include <stddef.h>
#include <stdint.h>

/* Softmax attention of one head of one batch item; the matrix of all scores is never stored. q, k, v, out and
   their gradients point at the first element of the head's columns. lse (queries): log-sum-exp of the scaled
   scores, kept for the backward pass. */

/* Memory layout of the head, and the keys that a query attends to. */
typedef struct {
  size_t queries, keys, head_dim;
  size_t q_stride, kv_stride, out_stride; /* elements between rows of q, of k and v, of out */
  float scale;
  size_t left, right; /* query i attends to keys i-left ... i+right (clipped) */
} ck_attention_shape;

/* bias (keys, or NULL) is added to the scaled scores of every query. */
void ck_attention_forward_f32(const float *q, const float *k, const float *v, const float *bias,
                              float *out, float *lse, const ck_attention_shape *shape);
/* Stores dq, dk and dv, whose rows are as far apart as those of q, k and v. */
void ck_attention_backward_f32(const float *q, const float *k, const float *v, const float *bias,
                               const float *out, const float *dout, const float *lse, float *dq,
                               float *dk, float *dv, const ck_attention_shape *shape);
/* The softmax weights themselves, map (queries, keys). */
void ck_attention_map_f32(const float *q, const float *k, float *map, const ck_attention_shape *shape);

/* Self-attention on bfloat16: scores, softmax and sums in float32, softmax weights rounded for the product with
   v. head_dim and strides are even, queries as many as keys, q_stride is kv_stride. `native` uses the dot
   products of AVX512-BF16, which the CPU must have. */
void ck_attention_forward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                               uint16_t *out, float *lse, const ck_attention_shape *shape, int native);
void ck_attention_backward_bf16(const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                const uint16_t *out, const float *dout, const float *lse, float *dq,
                                float *dk, float *dv, const ck_attention_shape *shape, int native);
