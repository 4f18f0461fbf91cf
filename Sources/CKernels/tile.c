#include "ck_tile.h"
#include "ck_tile_rows.h"

size_t ck_tile_rows = 6;

#if defined(__x86_64__)
/* AVX-512 has twice the registers, and each of them holds a whole row of a tile. */
__attribute__((constructor)) static void choose_tile_rows(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) ck_tile_rows = MAX_TILE_ROWS;
}
#endif

size_t ck_get_tile_rows(void) { return ck_tile_rows; }

void ck_set_tile_rows(size_t rows) { ck_tile_rows = rows == MAX_TILE_ROWS ? MAX_TILE_ROWS : 6; }
