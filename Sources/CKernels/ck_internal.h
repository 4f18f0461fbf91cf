#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef __has_feature
#define __has_feature(name) 0
#endif

/* Compiles a function for three instruction sets, one of which is chosen when the program is loaded. Not under
   ThreadSanitizer: it instruments the choice, which comes before the sanitizer is ready. */
#if defined(__x86_64__) && !__has_feature(thread_sanitizer)
#define CK_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CK_CLONES
#endif
#define CK_INLINE static inline __attribute__((always_inline))

/* Sums may be reordered so that they vectorise; nothing else of IEEE arithmetic is given up. */
#define CK_REASSOCIATE _Pragma("clang fp reassociate(on)")

#define LOG2_E 1.44269504088896341f

/* e^x to about 2 ulp, branch-free; underflows to 0 below -87.3 and saturates above 88.3. */
CK_INLINE float ck_exp(float x) {
  x = x < -87.33f ? -87.33f : x;
  x = x > 88.37f ? 88.37f : x;
  float z = x * LOG2_E;
  float shifted = z + 12582912.0f; /* 1.5 * 2^23: rounds to nearest */
  float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (int32_t)((uint32_t)(bits + 127) << 23);
  float scale;
  memcpy(&scale, &bits, 4);
  return p * scale;
}

/* 2^x to 1e-7 relative, branch-free, for x up to 126; stays at 2^-125 below that. */
CK_INLINE float ck_exp2(float x) {
  x = x < -125.0f ? -125.0f : x;
  float shifted = x + 12582912.0f; /* 1.5 * 2^23: rounds to nearest */
  float r = x - (shifted - 12582912.0f);
  float p = 1.3276471960e-3f;
  p = p * r + 9.6755415026e-3f;
  p = p * r + 5.5507132751e-2f;
  p = p * r + 2.4022119721e-1f;
  p = p * r + 6.9314696706e-1f;
  p = p * r + 1.0f;
  int32_t whole, bits;
  memcpy(&whole, &shifted, 4);
  memcpy(&bits, &p, 4);
  bits = (int32_t)((uint32_t)bits + ((uint32_t)whole << 23));
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

CK_INLINE float ck_sigmoid(float x) { return 1.0f / (1.0f + ck_exp(-x)); }

/* GELU_tanh(x) = x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3). */
#define GELU_A 1.5957691216057308f /* 2 sqrt(2/pi) */
#define GELU_B 0.07135481282553173f /* 2 sqrt(2/pi) 0.044715 */

CK_INLINE float ck_gelu(float x) { return x * ck_sigmoid(x * (GELU_A + GELU_B * x * x)); }

CK_INLINE float ck_silu(float x) { return x * ck_sigmoid(x); }

CK_INLINE float ck_gelu_slope(float x) {
  float s = ck_sigmoid(x * (GELU_A + GELU_B * x * x));
  return s + x * s * (1.0f - s) * (GELU_A + 3.0f * GELU_B * x * x);
}

/* The bits of x rounded to 16, ties to even; those of a NaN are cut off and kept a NaN. */
CK_INLINE uint32_t ck_bfloat16_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  uint32_t up = bits + 0x7fff + (bits >> 16 & 1);
  return ((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : up) >> 16;
}

CK_INLINE float ck_from_bfloat16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
