#pragma once
#include <stddef.h>
#include <stdint.h>

/* Random numbers that are functions of (seed, stream, index), as docs/random.md defines them: every
   function gives numbers first ... first + count - 1 of a stream, whatever else has been drawn. */

/* 64 random bits: words 2 index and 2 index + 1 of the stream, the first word in the low half. */
uint64_t ck_random_bits(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform numbers in [-bound, bound], rounded to float. */
void ck_random_uniform_f32(float *values, size_t count, uint64_t seed, uint64_t stream,
                           uint64_t first, float bound);
/* Standard normal numbers, rounded to float, times scale; the same bits on every CPU. */
void ck_random_normal_f32(float *values, size_t count, uint64_t seed, uint64_t stream,
                          uint64_t first, float scale);
