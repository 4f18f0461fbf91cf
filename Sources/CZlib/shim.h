#pragma once
#include <zlib.h>

// inflateInit2 is a macro; negative window bits mean raw deflate data, as in ZIP members.
static inline int cz_inflate_init_raw(z_stream *stream) { return inflateInit2(stream, -15); }
