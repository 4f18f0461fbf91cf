#ifndef C_SENTENCE_PIECE_H
#define C_SENTENCE_PIECE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Tokenizer of a SentencePiece model.
typedef struct sp_model sp_model;

/// Loads a serialized model; NULL for bytes that are none.
sp_model *sp_open(const void *bytes, size_t count);
void sp_close(sp_model *model);

/// Number of pieces.
int32_t sp_piece_count(const sp_model *model);
/// Id of a piece given as text, or the id of unknown pieces.
int32_t sp_piece_id(const sp_model *model, const char *text, size_t count);

/// Encodes UTF-8 text. Returns the number of ids, or -1 on failure; frees `*ids` with free().
ptrdiff_t sp_encode(const sp_model *model, const char *text, size_t count, int32_t **ids);

#ifdef __cplusplus
}
#endif
#endif
