#pragma once
#include <stddef.h>

/* Softmax attention of one head of one batch item, without materialising the N x N matrix.
   q, k, v: first element of the head's column block in the (tokens, stride) rows of the qkv output;
   out and dout: likewise in rows of out_stride; query i sees keys i-left ... i+right (clipped).
   lse (tokens): log-sum-exp of the scaled scores, kept for the backward pass. */
void ck_attention_forward_f32(const float *q, const float *k, const float *v, size_t stride,
                              float *out, size_t out_stride, float *lse, size_t tokens,
                              size_t head_dim, float scale, size_t left, size_t right);
void ck_attention_backward_f32(const float *q, const float *k, const float *v, size_t stride,
                               const float *out, const float *dout, size_t out_stride,
                               const float *lse, float *dq, float *dk, float *dv, size_t tokens,
                               size_t head_dim, float scale, size_t left, size_t right);
/* Attention of queries to keys of another number, one head of one batch item. */
typedef struct {
  size_t queries, keys, head_dim;
  size_t q_stride, kv_stride, out_stride; /* floats between rows */
  float scale;
} ck_cross_attention_shape;

/* As above without a window; bias (keys, or NULL) is added to the scaled scores of every query.
   dq has rows of q_stride, dk and dv of kv_stride; all three are stored. */
void ck_cross_attention_forward_f32(const float *q, const float *k, const float *v,
                                    const float *bias, float *out, float *lse,
                                    const ck_cross_attention_shape *shape);
void ck_cross_attention_backward_f32(const float *q, const float *k, const float *v,
                                     const float *bias, const float *out, const float *dout,
                                     const float *lse, float *dq, float *dk, float *dv,
                                     const ck_cross_attention_shape *shape);
/* The softmax weights themselves, map (tokens, tokens), for the statistics. */
void ck_attention_map_f32(const float *q, const float *k, size_t stride, float *map, size_t tokens,
                          size_t head_dim, float scale, size_t left, size_t right);
