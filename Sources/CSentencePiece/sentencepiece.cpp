#include "CSentencePiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

struct piece {
  int id;
  float score;
};

/// A best segmentation up to a byte: its score, the last piece and where that starts.
struct path {
  float score = 0;
  int start = -1;
  int id = 0;
};

size_t character_length(unsigned char first) { return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4; }

}  // namespace

struct sp_model {
  sentencepiece::SentencePieceProcessor processor;
  std::unordered_map<std::string, piece> pieces;
  size_t longest = 0;
  float unknown = 0;
  /// Whether scores are log probabilities; those of other kinds of models are whole numbers.
  bool is_unigram = false;
  /// Pieces of single bytes, for characters that no piece has; empty if the model has none.
  std::vector<int> bytes;
};

sp_model *sp_open(const void *bytes, size_t count) try {
  auto *model = new sp_model;
  const auto data = std::string_view(static_cast<const char *>(bytes), count);
  if (!model->processor.LoadFromSerializedProto(data).ok()) {
    delete model;
    return nullptr;
  }
  const auto &processor = model->processor;
  for (int id = 0; id < processor.GetPieceSize(); id++) {
    if (processor.IsByte(id)) model->bytes.push_back(id);
    if (processor.IsControl(id) || processor.IsUnknown(id) || processor.IsUnused(id) || processor.IsByte(id)) continue;
    const float score = processor.GetScore(id);
    const std::string &text = processor.IdToPiece(id);
    model->pieces[text] = {id, score};
    model->longest = std::max(model->longest, text.size());
    model->unknown = std::min(model->unknown, score);
    model->is_unigram |= score != std::floor(score);
  }
  model->unknown -= 10;
  return model;
} catch (const std::exception &) {
  return nullptr;
}

void sp_close(sp_model *model) { delete model; }

int32_t sp_piece_count(const sp_model *model) { return model->processor.GetPieceSize(); }

int32_t sp_piece_id(const sp_model *model, const char *text, size_t count) {
  return model->processor.PieceToId(std::string_view(text, count));
}

/// The best segmentation of normalized text, the one found first among equal ones: releases of the library
/// before 0.2 compare sums of different precision, so that rounding decides between them.
static std::vector<int> best_segmentation(const sp_model &model, const std::string &text) {
  const size_t size = text.size();
  std::vector<path> best(size + 1);
  for (size_t start = 0; start < size;) {
    const size_t next = std::min(size, start + character_length(text[start]));
    bool has_character = false;
    const auto offer = [&](size_t end, const piece &found) {
      const float score = found.score + best[start].score;
      if (best[end].start < 0 || score > best[end].score) best[end] = {score, static_cast<int>(start), found.id};
    };
    for (size_t end = next; end <= size && end - start <= model.longest;
         end += end < size ? character_length(text[end]) : 1) {
      const auto found = model.pieces.find(text.substr(start, end - start));
      if (found == model.pieces.end()) continue;
      offer(end, found->second);
      has_character |= end == next;
    }
    if (!has_character) offer(next, {model.processor.unk_id(), model.unknown});
    start = next;
  }
  std::vector<int> ids;
  const int unknown = model.processor.unk_id();
  for (size_t end = size; end > 0; end = static_cast<size_t>(best[end].start)) {
    if (best[end].id != unknown || model.bytes.empty()) {
      // Neighbouring unknown characters are one piece.
      if (best[end].id != unknown || ids.empty() || ids.back() != unknown) ids.push_back(best[end].id);
    } else {
      for (size_t at = end; at > static_cast<size_t>(best[end].start); at--)
        ids.push_back(model.bytes[static_cast<unsigned char>(text[at - 1])]);
    }
  }
  std::reverse(ids.begin(), ids.end());
  return ids;
}

/// Sum of the scores of all pieces but bytes.
static double total_score(const sp_model &model, const std::vector<int> &ids) {
  double total = 0;
  for (const int id : ids) total += model.processor.IsByte(id) ? 0 : model.processor.GetScore(id);
  return total;
}

ptrdiff_t sp_encode(const sp_model *model, const char *text, size_t count, int32_t **ids) try {
  const auto &processor = model->processor;
  const auto encoded = processor.EncodeAsImmutableProto(std::string_view(text, count));
  std::vector<int> found;
  std::string normalized;
  for (const auto &item : encoded.pieces()) {
    const int id = static_cast<int>(item.id());
    found.push_back(id);
    if (processor.IsByte(id)) {
      normalized += static_cast<char>(std::stoi(item.piece().substr(3, 2), nullptr, 16));
    } else {
      normalized += item.piece();
    }
  }
  if (model->is_unigram && (model->bytes.empty() || model->bytes.size() == 256)) {
    const auto other = best_segmentation(*model, normalized);
    if (std::abs(total_score(*model, other) - total_score(*model, found)) < 1e-3) found = other;
  }
  *ids = static_cast<int32_t *>(std::malloc(found.size() * sizeof(int32_t) + 1));
  if (*ids == nullptr) return -1;
  std::copy(found.begin(), found.end(), *ids);
  return static_cast<ptrdiff_t>(found.size());
} catch (const std::exception &) {
  return -1;
}
