#pragma once
#include <stddef.h>

/* One AdamW step (decoupled weight decay, bias-corrected); gradient is multiplied by grad_scale. */
void ck_adamw_f32(float *parameter, const float *gradient, float *first, float *second,
                  size_t count, float rate, float beta1, float beta2, float eps, float decay,
                  float correction1, float correction2, float grad_scale);
/* average = decay * average + (1 - decay) * parameter. */
void ck_ema_f32(float *average, const float *parameter, size_t count, float decay);
