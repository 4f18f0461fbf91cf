#pragma once
#include <sixel/sixel.h>

/* Encoding only: libsixel's decoders and image loaders are never called. */

/* Encodes opaque RGB pixels with at most `colors` colours, without dithering unless `dither`, and hands the bytes
   to `write`. Returns 0 on success. */
static inline int sx_encode(unsigned char *pixels, int width, int height, int colors, int dither,
                            int (*write)(char *bytes, int count, void *context), void *context) {
  sixel_output_t *output = NULL;
  sixel_dither_t *palette = NULL;
  SIXELSTATUS status = sixel_dither_new(&palette, colors, NULL);
  if (SIXEL_SUCCEEDED(status))
    status = sixel_dither_initialize(palette, pixels, width, height, SIXEL_PIXELFORMAT_RGB888,
                                     SIXEL_LARGE_AUTO, SIXEL_REP_AUTO, SIXEL_QUALITY_HIGH);
  if (SIXEL_SUCCEEDED(status)) {
    sixel_dither_set_diffusion_type(palette, dither ? SIXEL_DIFFUSE_FS : SIXEL_DIFFUSE_NONE);
    sixel_dither_set_pixelformat(palette, SIXEL_PIXELFORMAT_RGB888);
    status = sixel_output_new(&output, write, context, NULL);
  }
  if (SIXEL_SUCCEEDED(status)) status = sixel_encode(pixels, width, height, 0, palette, output);
  if (output) sixel_output_unref(output);
  if (palette) sixel_dither_unref(palette);
  return SIXEL_SUCCEEDED(status) ? 0 : -1;
}
