#pragma once
#include <stddef.h>
#include <stdint.h>

/* Whether the CPU has dot products of bfloat16, and the wide vectors that our kernels use with them. */
int ck_has_bfloat16(void);

/* Rounds to bfloat16, ties to even; NaN stays NaN. */
void ck_bfloat16_from_f32(const float *x, uint16_t *y, size_t n);

/* Columns `from` ..< `to` of x (rows, columns) rounded and transposed, at the same rows of
   y (columns, rows). */
void ck_bfloat16_transposed_f32(const float *x, uint16_t *y, size_t rows, size_t columns,
                                size_t from, size_t to);

/* The values that bfloat16 holds of x, as float32; x and y may be the same. */
void ck_bfloat16_round_f32(const float *x, float *y, size_t n);

/* y (rows, n with ldy floats between rows) = or += x (rows, n) + bias (n); no bias where it is NULL. */
void ck_store_rows_f32(const float *x, const float *bias, float *y, size_t ldy, size_t rows, size_t n,
                       int add);

/* y (rows, n) = x (rows, n) + bias (n), rounded; no bias where it is NULL. */
void ck_bfloat16_rows_f32(const float *x, const float *bias, uint16_t *y, size_t rows, size_t n);

/* The values of bfloat16 numbers. */
void ck_bfloat16_to_f32(const uint16_t *x, float *y, size_t n);

/* GELU in its tanh form of bfloat16, x and y may be the same; and its gradient, dx = or += dy GELU'(x). */
void ck_gelu_forward_bf16(const uint16_t *x, uint16_t *y, size_t n);
void ck_gelu_backward_bf16(const uint16_t *x, const float *dy, float *dx, size_t n, int accumulate);
