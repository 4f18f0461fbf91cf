#pragma once
#include <stddef.h>

/* The state space scan of Mamba-2 in its chunked form (Dao & Gu 2024, arXiv 2405.21060, section 6),
   for the heads first ..< last of one group of one batch item:
     state_t = exp(delta_t A) state_(t-1) + delta_t B_t x_t,  y_t = C_t state_t + D x_t,
     delta = softplus(dt + dt_bias),  A = -exp(a_log). */
typedef struct {
  size_t tokens, heads, head_dim, groups, state, chunk;
} ck_scan_shape;

/* Floats that `states` holds for one batch item: the state of every head at the start of every
   chunk. */
size_t ck_scan_states(const ck_scan_shape *shape);

/* xbc (tokens, heads head_dim + 2 groups state): x, B of all groups, C of all groups; dt (tokens,
   heads); dt_bias, a_log, d (heads); y (tokens, heads head_dim). The group's heads are contiguous;
   values of other heads are unchanged. */
void ck_scan_forward_f32(const ck_scan_shape *shape, size_t group, size_t first, size_t last,
                         const float *xbc, const float *dt, const float *dt_bias,
                         const float *a_log, const float *d, float *y, float *states);

/* Stores: x columns of dxbc and ddt of these heads, their entries of ddt_bias, da_log, dd, and the
   heads' share of the gradients of the group's B and C, rows of the given stride. */
typedef struct {
  float *dxbc, *ddt, *ddt_bias, *da_log, *dd;
  float *db, *dc;
  size_t bc_stride;
} ck_scan_gradients;

void ck_scan_backward_f32(const ck_scan_shape *shape, size_t group, size_t first, size_t last,
                          const float *xbc, const float *dt, const float *dt_bias,
                          const float *a_log, const float *d, const float *dy,
                          const float *states, const ck_scan_gradients *to);
