#pragma once
#include <stddef.h>

/* Rows of A up to which every element of a transposed B is used so rarely that packing costs more than it
   saves: those products are dot products, whose sums are rounded in another order. */
enum { CK_GEMM_MOST_DOT_ROWS = 4 };

/* Whether `ck_gemm_f32` has vector kernels for this CPU. */
int ck_gemm_is_fast(void);

/* C (m x n, rows `ldc` apart) = op(A) op(B), or C += op(A) op(B) if `add`; one thread.

   A is stored as (m, k), or as (k, m) if `transpose_a`; B as (k, n), or as (n, k) if `transpose_b`;
   `lda` and `ldb` are the distances of their rows. */
void ck_gemm_f32(const float *a, size_t lda, int transpose_a, const float *b, size_t ldb,
                 int transpose_b, float *c, size_t ldc, size_t m, size_t n, size_t k, int add);

/* Rows of the largest register tile: 12 with AVX-512, else 6; chosen when the program is loaded. */
size_t ck_get_tile_rows(void);
/* Chooses 6 or 12 on any CPU; results agree but for rounding. For tests. */
void ck_set_tile_rows(size_t rows);
