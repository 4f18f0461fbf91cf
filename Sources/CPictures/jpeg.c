#include "pictures.h"
#include <setjmp.h>
#include <stdio.h>
#include <jpeglib.h>

/* Scans of a progressive picture; encoders make about ten. */
enum { MAX_SCANS = 500 };

typedef struct {
  struct jpeg_error_mgr base;
  jmp_buf jump;
  char *message;
} jpeg_failure;

static void fail_with(j_common_ptr jpeg, const char *reason) {
  jpeg_failure *failure = (jpeg_failure *)jpeg->err;
  snprintf(failure->message, CP_MESSAGE, "%s", reason);
  longjmp(failure->jump, 1);
}

static void fail(j_common_ptr jpeg) {
  char reason[JMSG_LENGTH_MAX];
  jpeg->err->format_message(jpeg, reason);
  fail_with(jpeg, reason);
}

static void ignore_warning(j_common_ptr jpeg, int level) {
  (void)jpeg;
  (void)level;
}

static void watch_scans(j_common_ptr jpeg) {
  if (((j_decompress_ptr)jpeg)->input_scan_number > MAX_SCANS) fail_with(jpeg, "it has too many scans");
}

static void start(j_decompress_ptr jpeg) { (void)jpeg; }

/* There are no more bytes: the decoder stops where it is. */
static boolean fill(j_decompress_ptr jpeg) {
  (void)jpeg;
  return FALSE;
}

static void skip(j_decompress_ptr jpeg, long count) {
  if (count <= 0) return;
  size_t left = jpeg->src->bytes_in_buffer, step = (size_t)count < left ? (size_t)count : left;
  jpeg->src->next_input_byte += step;
  jpeg->src->bytes_in_buffer -= step;
}

/* A product of two bytes over 255, rounded. */
static int over_255(int a, int b) {
  int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/* Inverted cyan, magenta, yellow and black, as Adobe writes them, to red, green and blue as Pillow does. */
static void convert_cmyk(const uint8_t *inks, uint8_t *rgb, size_t count) {
  for (size_t i = 0; i < count; i++, inks += 4, rgb += 3)
    for (int c = 0; c < 3; c++) {
      int light = inks[3] - over_255(255 - inks[c], inks[3]);
      rgb[c] = (uint8_t)(light < 0 ? 0 : light);
    }
}

/* The pixels are those of Pillow's convert("RGB"): an orientation in the metadata is not applied, stray bytes
   and damaged data are passed over as libjpeg does, and a picture that ends early is refused. */
int cp_read_jpeg(const uint8_t *bytes, size_t count, uint32_t size[2], uint8_t *pixels, char message[CP_MESSAGE]) {
  struct jpeg_decompress_struct jpeg;
  jpeg_failure failure = {.message = message};
  jpeg.err = jpeg_std_error(&failure.base);
  failure.base.error_exit = fail;
  failure.base.emit_message = ignore_warning;
  if (setjmp(failure.jump)) {
    jpeg_destroy_decompress(&jpeg);
    return 0;
  }
  jpeg_create_decompress(&jpeg);
  struct jpeg_source_mgr source = {.next_input_byte = bytes, .bytes_in_buffer = count,
    .init_source = start, .fill_input_buffer = fill, .skip_input_data = skip,
    .resync_to_restart = jpeg_resync_to_restart, .term_source = start};
  struct jpeg_progress_mgr progress = {.progress_monitor = watch_scans};
  jpeg.src = &source;
  jpeg.progress = &progress;
  j_common_ptr common = (j_common_ptr)&jpeg;
  if (jpeg_read_header(&jpeg, TRUE) != JPEG_HEADER_OK) fail_with(common, "it is truncated");
  size[0] = jpeg.image_width;
  size[1] = jpeg.image_height;
  if (pixels) {
    int is_cmyk = jpeg.num_components == 4;
    jpeg.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    if (!jpeg_start_decompress(&jpeg)) fail_with(common, "it is truncated");
    JSAMPARRAY inks = is_cmyk ? jpeg.mem->alloc_sarray(common, JPOOL_IMAGE, 4 * jpeg.output_width, 1) : NULL;
    for (size_t row = 3 * (size_t)jpeg.output_width; jpeg.output_scanline < jpeg.output_height; pixels += row) {
      JSAMPROW line = is_cmyk ? inks[0] : pixels;
      if (jpeg_read_scanlines(&jpeg, &line, 1) != 1) fail_with(common, "it is truncated");
      if (is_cmyk) convert_cmyk(line, pixels, jpeg.output_width);
    }
  }
  jpeg_destroy_decompress(&jpeg);
  return 1;
}
