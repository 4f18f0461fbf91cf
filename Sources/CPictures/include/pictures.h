#pragma once
#include <stddef.h>
#include <stdint.h>

/* Pictures in memory through libpng and libjpeg. Pixels are 8-bit red, green and blue, row-major from the
   top left. Functions return 0 with the reason in `message` when they fail, and keep no memory. */

enum { CP_MESSAGE = 200 };

/* Reads the width and height of a PNG or JPEG picture into `size` and, unless it is NULL, all pixels into
   `pixels`, which has room for 3 * width * height bytes. */
int cp_read_png(const uint8_t *bytes, size_t count, uint32_t size[2], uint8_t *pixels, char message[CP_MESSAGE]);
int cp_read_jpeg(const uint8_t *bytes, size_t count, uint32_t size[2], uint8_t *pixels, char message[CP_MESSAGE]);

/* Writes a PNG picture into `out`, which has room for `room` bytes; returns the number of bytes written. */
size_t cp_write_png(const uint8_t *pixels, uint32_t width, uint32_t height, uint8_t *out, size_t room,
                    char message[CP_MESSAGE]);
