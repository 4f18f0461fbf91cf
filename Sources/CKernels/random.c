#include "ck_internal.h"
#include "ck_random.h"

/* A fused multiply-add rounds once instead of twice: without it all CPUs give the same bits. */
#pragma clang fp contract(off)

/* Blocks of four words that are made together. */
#define BLOCKS 32
#define WORDS (4 * BLOCKS)

/* Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): counter (block, stream), key seed. */
CK_INLINE void philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t words[4]) {
  uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
  uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma clang loop unroll(full)
  for (int round = 0; round < 10; round++) {
    uint64_t p = (uint64_t)c0 * 0xD2511F53u, q = (uint64_t)c2 * 0xCD9E8D57u;
    c0 = (uint32_t)(q >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)q;
    c2 = (uint32_t)(p >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

CK_INLINE void philox_blocks(uint64_t seed, uint64_t stream, uint64_t first, uint32_t *words) {
  for (size_t i = 0; i < BLOCKS; i++) philox(seed, stream, first + i, words + 4 * i);
}

uint64_t ck_random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t words[4];
  philox(seed, stream, index / 2, words);
  size_t at = 2 * (index % 2);
  return words[at] | (uint64_t)words[at + 1] << 32;
}

CK_INLINE double from_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, 8);
  return value;
}

/* Number in [0, 2^53) as a double. */
CK_INLINE double ck_unit(uint32_t low, uint32_t high) {
  /* The two halves are exact, and so is their sum. */
  return ((double)high * 0x1p21 + (double)(low >> 11)) * 0x1p-53;
}

CK_CLONES void ck_random_uniform_f32(float *values, size_t count, uint64_t seed, uint64_t stream,
                                     uint64_t first, float bound) {
  uint32_t words[WORDS];
  float made[WORDS / 2];
  size_t skip = first % 2;
  for (uint64_t block = first / 2; count > 0; block += BLOCKS) {
    philox_blocks(seed, stream, block, words);
    for (size_t i = 0; i < WORDS / 2; i++)
      made[i] = (float)(2 * ck_unit(words[2 * i], words[2 * i + 1]) - 1) * bound;
    size_t part = WORDS / 2 - skip < count ? WORDS / 2 - skip : count;
    memcpy(values, made + skip, part * sizeof(float));
    values += part;
    count -= part;
    skip = 0;
  }
}

/* The natural logarithm of (word + 1/2) / 2^32. */
CK_INLINE double log_unit(uint32_t word) {
  double value = (double)word + 0.5;
  uint64_t bits;
  memcpy(&bits, &value, 8);
  /* value = m 2^e with m from sqrt(1/2) to sqrt(2), e biased by 1023. */
  uint64_t root = 0x3FE6A09E667F3BCD, e = (bits - root + 0x3FF0000000000000) >> 52;
  double m = from_bits(bits - (e << 52) + 0x3FF0000000000000);
  /* ln m = 2 artanh s */
  double s = (m - 1) / (m + 1), t = s * s, p = 1.0 / 17;
  p = p * t + 1.0 / 15;
  p = p * t + 1.0 / 13;
  p = p * t + 1.0 / 11;
  p = p * t + 1.0 / 9;
  p = p * t + 1.0 / 7;
  p = p * t + 1.0 / 5;
  p = p * t + 1.0 / 3;
  p = p * t + 1.0;
  /* Converts e to double by adding 2^52, which vectorises on every CPU. */
  double exponent = from_bits(0x4330000000000000 | e) - (0x1p52 + 1023 + 32);
  return exponent * 0.6931471805599453 + 2 * s * p;
}

/* Box-Muller: radius from the first word, angle 2 pi second / 2^32 from the second. */
CK_INLINE void normal_pair(uint32_t first, uint32_t second, float scale, float *pair) {
  double radius = __builtin_elementwise_sqrt(-2 * log_unit(first));
  uint32_t quarter = (second + (1u << 29)) >> 30;
  double x = (double)(int32_t)(second - (quarter << 30)) * (6.283185307179586 * 0x1p-32);
  double y = x * x, c = 1.0 / 20922789888000, s = -1.0 / 1307674368000;
  c = c * y - 1.0 / 87178291200;
  c = c * y + 1.0 / 479001600;
  c = c * y - 1.0 / 3628800;
  c = c * y + 1.0 / 40320;
  c = c * y - 1.0 / 720;
  c = c * y + 1.0 / 24;
  c = c * y - 1.0 / 2;
  c = c * y + 1.0;
  s = s * y + 1.0 / 6227020800;
  s = s * y - 1.0 / 39916800;
  s = s * y + 1.0 / 362880;
  s = s * y - 1.0 / 5040;
  s = s * y + 1.0 / 120;
  s = s * y - 1.0 / 6;
  s = s * y + 1.0;
  s = s * x;
  double cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
  cosine = (quarter + 1) & 2 ? -cosine : cosine;
  sine = quarter & 2 ? -sine : sine;
  pair[0] = (float)(radius * cosine) * scale;
  pair[1] = (float)(radius * sine) * scale;
}

CK_CLONES void ck_random_normal_f32(float *values, size_t count, uint64_t seed, uint64_t stream,
                                    uint64_t first, float scale) {
  uint32_t words[WORDS];
  float made[WORDS];
  size_t skip = first % 4;
  for (uint64_t block = first / 4; count > 0; block += BLOCKS) {
    philox_blocks(seed, stream, block, words);
    for (size_t i = 0; i < WORDS; i += 2) normal_pair(words[i], words[i + 1], scale, made + i);
    size_t part = WORDS - skip < count ? WORDS - skip : count;
    memcpy(values, made + skip, part * sizeof(float));
    values += part;
    count -= part;
    skip = 0;
  }
}
