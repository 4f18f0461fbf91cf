#include "ck_linear.h"
#include "ck_tile.h"

enum {
  ROW_BLOCK = 48,    /* rows of x that stay in the first-level cache while a panel is used */
  DEPTH_BLOCK = 128, /* rows whose contribution to a weight gradient is added at once */
  LARGEST = 1 << 15, /* elements of a weight matrix that fits the second-level cache */
};

int ck_linear_fits(size_t inputs, size_t outputs) {
  return inputs % LANES == 0 && outputs % LANES == 0 && inputs * outputs <= LARGEST;
}

/* C (m x n) (+)= A B in blocks of rows, two panels of B used for a whole block. */
static void blocked(const float *a, size_t lda, panels b, float *c, size_t ldc, size_t m, size_t n,
                    size_t depth, int add) {
  for (size_t i = 0; i < m; i += ROW_BLOCK)
    ck_multiply_f32(a + i * lda, lda, 1, b, c + i * ldc, ldc, smaller(ROW_BLOCK, m - i), n, depth, add);
}

CK_CLONES void ck_linear_forward_f32(const float *x, const float *weight, const float *bias,
                                     float *y, size_t rows, size_t inputs, size_t outputs) {
  float *packed = scratch(inputs * outputs);
  for (size_t j = 0; j < outputs; j += LANES)
    pack_panel((matrix){weight, inputs, 1}, 0, j, LANES, inputs, LANES, packed + j * inputs);
  panels b = {packed, LANES, inputs * LANES};
  if (bias)
    for (size_t r = 0; r < rows; r++) memcpy(y + r * outputs, bias, outputs * sizeof *y);
  blocked(x, inputs, b, y, outputs, rows, outputs, inputs, bias != NULL);
}

CK_CLONES void ck_linear_input_gradient_f32(const float *dy, const float *weight, float *dx,
                                            size_t rows, size_t inputs, size_t outputs, int add) {
  panels b = pack_panels(weight, inputs, scratch(inputs * outputs), outputs, inputs);
  blocked(dy, outputs, b, dx, inputs, rows, inputs, outputs, add);
}

CK_CLONES void ck_linear_weight_gradient_f32(const float *dy, size_t dy_stride, const float *x,
                                             float *dweight, size_t rows, size_t inputs,
                                             size_t outputs, int add) {
  float *packed = scratch(DEPTH_BLOCK * inputs);
  for (size_t r = 0; r < rows; r += DEPTH_BLOCK) {
    size_t depth = smaller(DEPTH_BLOCK, rows - r);
    panels b = pack_panels(x + r * inputs, inputs, packed, depth, inputs);
    ck_multiply_f32(dy + r * dy_stride, 1, dy_stride, b, dweight, inputs, outputs, inputs, depth,
                    add || r > 0);
  }
}
