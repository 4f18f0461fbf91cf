#include "pictures.h"
#include <png.h>
#include <stdio.h>
#include <string.h>

typedef struct {
  const uint8_t *next;
  size_t left;
  char *message;
} png_input;

static void fail(png_structp png, png_const_charp reason) {
  snprintf(((png_input *)png_get_error_ptr(png))->message, CP_MESSAGE, "%s", reason);
  png_longjmp(png, 1);
}

static void ignore_warning(png_structp png, png_const_charp reason) {
  (void)png;
  (void)reason;
}

static void take(png_structp png, png_bytep out, size_t count) {
  png_input *input = png_get_io_ptr(png);
  if (count > input->left) png_error(png, "it is truncated");
  memcpy(out, input->next, count);
  input->next += count;
  input->left -= count;
}

/* 16-bit samples to 8 bits as Pillow's mode I;16 converts them: values above 255 are 255. */
static void clip_16(png_structp png, png_row_infop row, png_bytep samples) {
  (void)png;
  for (size_t i = 0; i < (size_t)row->width * row->channels; i++)
    samples[i] = samples[2 * i] ? 255 : samples[2 * i + 1];
}

/* The pixels are those of Pillow's convert("RGB"): colours behind transparency are kept; gamma, colour
   profiles and checksums are ignored; of 16-bit samples the upper byte counts, but in pure grey pictures the
   value itself, cut off at 255. */
int cp_read_png(const uint8_t *bytes, size_t count, uint32_t size[2], uint8_t *pixels, char message[CP_MESSAGE]) {
  png_input input = {bytes, count, message};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input, fail, ignore_warning);
  png_infop info = png ? png_create_info_struct(png) : NULL;
  if (!info || setjmp(png_jmpbuf(png))) {
    if (!info) snprintf(message, CP_MESSAGE, "there is not enough memory");
    png_destroy_read_struct(&png, &info, NULL);
    return 0;
  }
  png_set_read_fn(png, &input, take);
  png_set_benign_errors(png, 1);
  png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_read_info(png, info);
  int depth, kind;
  png_get_IHDR(png, info, &size[0], &size[1], &depth, &kind, NULL, NULL, NULL);
  if (pixels) {
    png_set_expand(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    if (depth == 16 && kind == PNG_COLOR_TYPE_GRAY) {
      png_set_read_user_transform_fn(png, clip_16);
      png_set_user_transform_info(png, NULL, 8, 3);
    } else {
      png_set_strip_16(png);
    }
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    size_t row = 3 * (size_t)size[0];
    if (png_get_rowbytes(png, info) != row) png_error(png, "its kind of pixels is unknown");
    for (int pass = 0; pass < passes; pass++)
      for (size_t y = 0; y < size[1]; y++) png_read_row(png, pixels + y * row, NULL);
  }
  png_destroy_read_struct(&png, &info, NULL);
  return 1;
}

size_t cp_write_png(const uint8_t *pixels, uint32_t width, uint32_t height, uint8_t *out, size_t room,
                    char message[CP_MESSAGE]) {
  png_image image = {.version = PNG_IMAGE_VERSION, .width = width, .height = height, .format = PNG_FORMAT_RGB};
  if (png_image_write_to_memory(&image, out, &room, 0, pixels, (png_int_32)(3 * width), NULL)) return room;
  snprintf(message, CP_MESSAGE, "%s", image.message);
  return 0;
}
