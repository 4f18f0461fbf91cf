#include "ck_tile.h"
#include "ck_gemm.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

size_t ck_tile_rows = SMALL_TILE_ROWS;

#if defined(__x86_64__)
/* AVX-512 has twice the registers, each of which holds a whole vector. */
__attribute__((constructor)) static void choose_tile_rows(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) ck_tile_rows = MAX_TILE_ROWS;
}
#endif

size_t ck_get_tile_rows(void) { return ck_tile_rows; }

void ck_set_tile_rows(size_t rows) {
  ck_tile_rows = rows == MAX_TILE_ROWS ? MAX_TILE_ROWS : SMALL_TILE_ROWS;
}

/* One tile of a product, at rows from i on and columns from j on; three rows of A share an address register. */
#define TILE(KERNEL, ELEMENT, ROWS)                                                                \
  KERNEL(ROWS, vecs, 3, a + i * ars, ars, acs, (const ELEMENT *)right.data, right.row, right.panel, \
         c + i * ldc + j, ldc, depth, add)

/* All tiles of a product: two vectors wide if there are registers enough; the last may be one wide. */
#define PRODUCT(TILE)                                                                              \
  const size_t most = ck_tile_rows, wide = most == MAX_TILE_ROWS ? 2 * LANES : LANES;              \
  for (size_t j = 0; j < n;) {                                                                     \
    const panels right = panels_from(b, 0, j);                                                     \
    if (n - j >= wide && wide > LANES) {                                                           \
      const int vecs = 2;                                                                          \
      CK_EACH_TILE(m, most, i, TILE)                                                               \
      j += 2 * LANES;                                                                              \
    } else {                                                                                       \
      const int vecs = 1;                                                                          \
      CK_EACH_TILE(m, most, i, TILE)                                                               \
      j += LANES;                                                                                  \
    }                                                                                              \
  }

CK_CLONES static void multiply_f32(const float *a, size_t ars, size_t acs, panels b, float *c,
                                   size_t ldc, size_t m, size_t n, size_t depth, int add) {
#define TILE_F32(ROWS) TILE(micro_kernel, float, ROWS)
  PRODUCT(TILE_F32)
}

void ck_multiply_f32(const float *a, size_t ars, size_t acs, panels b, float *c, size_t ldc, size_t m,
                     size_t n, size_t depth, int add) {
  multiply_f32(a, ars, acs, b, c, ldc, m, n, depth, add);
}

CK_MICRO_KERNEL(micro_kernel_pairs, uint32_t, words, CK_MULTIPLY_ADD_PAIRS)

CK_CLONES static void multiply_emulated(const uint32_t *a, size_t ars, size_t acs, panels b, float *c,
                                        size_t ldc, size_t m, size_t n, size_t depth, int add) {
#define TILE_EMULATED(ROWS) TILE(micro_kernel_pairs, uint32_t, ROWS)
  PRODUCT(TILE_EMULATED)
}

#if defined(__x86_64__)
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4,avx512bf16"))), apply_to = function)
CK_MICRO_KERNEL(micro_kernel_native, uint32_t, words, CK_MULTIPLY_ADD_PAIRS_NATIVE)

static void multiply_native(const uint32_t *a, size_t ars, size_t acs, panels b, float *c, size_t ldc,
                            size_t m, size_t n, size_t depth, int add) {
#define TILE_NATIVE(ROWS) TILE(micro_kernel_native, uint32_t, ROWS)
  PRODUCT(TILE_NATIVE)
}
#pragma clang attribute pop
#else
#define multiply_native multiply_emulated
#endif

void ck_multiply_pairs(const uint32_t *a, size_t ars, size_t acs, panels b, float *c, size_t ldc,
                       size_t m, size_t n, size_t depth, int add, int native) {
  if (native) multiply_native(a, ars, acs, b, c, ldc, m, n, depth, add);
  else multiply_emulated(a, ars, acs, b, c, ldc, m, n, depth, add);
}
