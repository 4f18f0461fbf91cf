#pragma once
#include <stddef.h>
#include <stdint.h>

/* Rows of x (rows, k), float32 or bfloat16, as 8-bit integers with a scale for each row: x is nearly scale (q - shift),
   q - shift being -127 ... 127; `sum` (rows), if not NULL, receives the sums of q - shift. */
void ck_int8_quantize(const void *x, int is_bfloat16, uint8_t *q, int shift, float *scale, float *sum,
                      size_t rows, size_t k);

/* The values that such integers stand for, in float32. */
void ck_int8_round_f32(const float *x, float *y, size_t rows, size_t k);

/* y = or += (product - 128 sum) row column + bias: the product (rows, n) of integers with shift 128 and such with
   shift 0, sums, scales and bias of columns (n), scales of rows. y has `ldy` elements between rows; in bfloat16 it is
   stored, after GELU if `gelu`. */
void ck_int8_store(const float *product, const float *row, const float *column, const float *sum,
                   const float *bias, void *y, size_t ldy, int is_bfloat16, int gelu, int add,
                   size_t rows, size_t n);
