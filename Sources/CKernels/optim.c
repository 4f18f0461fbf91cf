#include "ck_internal.h"
#include "ck_optim.h"

CK_CLONES void ck_adamw_f32(float *restrict parameter, const float *restrict gradient,
                            float *restrict first, float *restrict second, size_t count, float rate,
                            float beta1, float beta2, float eps, float decay, float correction1,
                            float correction2, float grad_scale) {
  float step = rate / correction1, root = 1.0f / sqrtf(correction2), keep = 1.0f - rate * decay;
  for (size_t i = 0; i < count; i++) {
    float g = gradient[i] * grad_scale;
    float m = beta1 * first[i] + (1.0f - beta1) * g;
    float v = beta2 * second[i] + (1.0f - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    parameter[i] = parameter[i] * keep - step * m / (sqrtf(v) * root + eps);
  }
}

CK_CLONES void ck_ema_f32(float *restrict average, const float *restrict parameter, size_t count,
                          float decay) {
  for (size_t i = 0; i < count; i++)
    average[i] = decay * average[i] + (1.0f - decay) * parameter[i];
}
