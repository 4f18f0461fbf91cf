#pragma once
#include <stddef.h>

/* Rows of a product that one register tile computes: 6, or 12 where the vector registers hold so
   many. Chosen when the program is loaded. */
size_t ck_get_tile_rows(void);
/* Chooses 6 or 12, whatever suits the machine; results agree but for rounding. For tests. */
void ck_set_tile_rows(size_t rows);
