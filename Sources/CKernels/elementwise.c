#include "ck_elementwise.h"
#include "ck_internal.h"

float ck_sigmoid_f32(float x) { return ck_sigmoid(x); }

CK_CLONES void ck_gelu_forward_f32(const float *restrict x, float *restrict y, size_t count) {
  for (size_t i = 0; i < count; i++) {
    y[i] = ck_gelu(x[i]);
  }
}

CK_CLONES void ck_gelu_backward_f32(const float *restrict x, const float *restrict dy,
                                    float *restrict dx, size_t count, int accumulate) {
  for (size_t i = 0; i < count; i++)
    dx[i] = (accumulate ? dx[i] : 0) + dy[i] * ck_gelu_slope(x[i]);
}

CK_CLONES void ck_silu_forward_f32(const float *restrict x, float *restrict y, size_t count) {
  for (size_t i = 0; i < count; i++) y[i] = x[i] * ck_sigmoid(x[i]);
}

CK_CLONES void ck_silu_backward_f32(const float *restrict x, const float *restrict dy,
                                    float *restrict dx, size_t count, int accumulate) {
  for (size_t i = 0; i < count; i++) {
    float s = ck_sigmoid(x[i]);
    dx[i] = (accumulate ? dx[i] : 0) + dy[i] * (s + x[i] * s * (1.0f - s));
  }
}

CK_CLONES void ck_add_f32(float *restrict y, const float *restrict x, size_t count) {
  for (size_t i = 0; i < count; i++) y[i] += x[i];
}

CK_CLONES void ck_axpy_f32(float *restrict y, float a, const float *restrict x, size_t count) {
  for (size_t i = 0; i < count; i++) y[i] += a * x[i];
}

CK_CLONES void ck_scale_f32(float *y, float a, size_t count) {
  for (size_t i = 0; i < count; i++) y[i] *= a;
}

CK_CLONES void ck_bias_backward_f32(const float *restrict dy, size_t stride, float *restrict dbias,
                                    size_t rows, size_t cols) {
  for (size_t r = 0; r < rows; r++)
    for (size_t c = 0; c < cols; c++) dbias[c] += dy[r * stride + c];
}

CK_CLONES void ck_gated_residual_forward_f32(const float *restrict x, const float *restrict y,
                                             const float *restrict gate, float *restrict out,
                                             size_t tokens, size_t dim) {
  for (size_t n = 0; n < tokens; n++)
    for (size_t d = 0; d < dim; d++) out[n * dim + d] = x[n * dim + d] + gate[d] * y[n * dim + d];
}

CK_CLONES void ck_gated_residual_backward_f32(const float *restrict dout, const float *restrict y,
                                              const float *restrict gate, float *restrict dy,
                                              float *restrict dgate, size_t tokens, size_t dim,
                                              int accumulate) {
  for (size_t n = 0; n < tokens; n++) {
    const float *g = dout + n * dim, *v = y + n * dim;
    if (dgate)
      for (size_t d = 0; d < dim; d++) dgate[d] += g[d] * v[d];
    if (dy && accumulate)
      for (size_t d = 0; d < dim; d++) dy[n * dim + d] += gate[d] * g[d];
    if (dy && !accumulate)
      for (size_t d = 0; d < dim; d++) dy[n * dim + d] = gate[d] * g[d];
  }
}

CK_CLONES double ck_sum_squares_f32(const float *x, size_t count) {
  double total = 0;
  for (size_t start = 0; start < count; start += 1024) {
    size_t end = start + 1024 < count ? start + 1024 : count;
    float part = 0;
    {
      CK_REASSOCIATE
      for (size_t i = start; i < end; i++) part += x[i] * x[i];
    }
    total += (double)part;
  }
  return total;
}

CK_CLONES double ck_regression_loss_f32(const float *restrict prediction,
                                        const float *restrict target, float *restrict gradient,
                                        size_t count, int kind, float delta, float scale) {
  double total = 0;
  for (size_t start = 0; start < count; start += 1024) {
    CK_REASSOCIATE
    size_t end = start + 1024 < count ? start + 1024 : count;
    float part = 0;
    if (kind == 0) {
      for (size_t i = start; i < end; i++) part += fabsf(prediction[i] - target[i]);
      if (gradient)
        for (size_t i = start; i < end; i++) {
          float e = prediction[i] - target[i];
          gradient[i] = e > 0 ? scale : e < 0 ? -scale : 0;
        }
    } else if (kind == 1) {
      for (size_t i = start; i < end; i++) {
        float e = prediction[i] - target[i];
        part += e * e;
      }
      if (gradient)
        for (size_t i = start; i < end; i++)
          gradient[i] = 2.0f * scale * (prediction[i] - target[i]);
    } else {
      for (size_t i = start; i < end; i++) {
        float e = prediction[i] - target[i], a = fabsf(e);
        part += a <= delta ? 0.5f * e * e : delta * (a - 0.5f * delta);
      }
      if (gradient)
        for (size_t i = start; i < end; i++) {
          float e = prediction[i] - target[i];
          float c = e > delta ? delta : e < -delta ? -delta : e;
          gradient[i] = scale * c;
        }
    }
    total += (double)part;
  }
  return total;
}
