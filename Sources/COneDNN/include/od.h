#pragma once
#include <stddef.h>

/* Matrix products through oneDNN's packed kernels (AVX-512), one thread a call: C (m x n) = A B, A and B in float32,
   bfloat16 or 8-bit integers (A unsigned, B signed), A and C dense and row-major, sums in float32. B is packed
   first, once for any number of products. Several threads may run a product at once, each with its own scratch
   memory. */

typedef enum { OD_F32 = 0, OD_BF16 = 1, OD_INT8 = 2 } od_type;

typedef struct {
  size_t m, n, k;
  od_type operand; /* of A and B */
  od_type result;  /* of C, float32 for 8-bit integers */
  int has_bias;    /* C += bias (n), in float32 */
  int accumulate;  /* C is added to its former content */
} od_shape;

typedef struct od_product od_product;

/* A product of that shape; NULL if the library has no packed kernel for it on this CPU. */
od_product *od_product_make(const od_shape *shape);

/* Bytes of packed B, in which every 64 columns lie together, one block behind the other, and of the scratch memory
   of a run; both need 64-byte alignment. */
size_t od_packed_size(const od_product *product);
size_t od_scratch_size(const od_product *product);

/* Packs B, stored in `type` as (k, n), or as (n, k) if `transpose_b`; 0 if the library reports an error. */
int od_pack(const od_product *product, const void *b, od_type type, size_t ldb, int transpose_b,
            void *packed);

/* Runs it, with a bias if its shape has one; 0 if the library reports an error. */
int od_run(const od_product *product, const void *a, const void *packed, const float *bias, void *c,
           void *scratch);

/* "oneDNN 2.6.3". */
void od_version(char *text, size_t size);
