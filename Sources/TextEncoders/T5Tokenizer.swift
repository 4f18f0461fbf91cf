import CSentencePiece
import Files
import Foundation

/// Tokenizer of T5: SentencePiece pieces followed by the end token (transformers 4 `T5Tokenizer` with `legacy`).
///
/// Text of added tokens, such as `</s>` or `<extra_id_7>`, becomes their ids; the text between them is
/// encoded piece by piece.
package final class T5Tokenizer: @unchecked Sendable {
  /// Token that ends every text.
  package static let end = 1
  /// Token that fills a text up to its padded length.
  package static let padding = 0

  /// Token that is recognised in text before SentencePiece sees it.
  private struct AddedToken: Decodable {
    var content: String
    var lstrip, rstrip: Bool?
  }

  /// Path of the SentencePiece model.
  package let path: String
  /// Smallest size of a table that holds all ids.
  package let vocabulary: Int
  private let model: OpaquePointer
  private let added: [(token: AddedToken, id: Int)]
  private let isLegacy: Bool

  private static let sizeLimit = 64 << 20

  /// Opens the tokenizer of a folder with `spiece.model` and optionally `tokenizer_config.json`.
  ///
  /// - Throws: `FileError` if the model is missing or damaged or its special tokens are not T5's.
  package init(folder: String) throws(FileError) {
    path = "\(folder)/spiece.model"
    guard access(path, F_OK) == 0 else {
      throw FileError(
        "\(folder): has no 'spiece.model'; put the SentencePiece model of the text encoder there")
    }
    let bytes = try AtomicFile.read(path, limit: Self.sizeLimit)
    let opened = bytes.withUnsafeBytes { sp_open($0.baseAddress, $0.count) }
    guard let opened else {
      throw FileError("\(path): is no SentencePiece model; fetch it again")
    }
    model = opened
    let pieces = Int(sp_piece_count(opened))
    let config = try Self.config("\(folder)/tokenizer_config.json")
    isLegacy = config?.legacy ?? true
    if let listed = config?.addedTokensDecoder {
      added = listed.compactMap { key, token in Int(key).map { (token, $0) } }
    } else {
      let extra = config?.extraIds ?? 100
      guard (0...10_000).contains(extra) else {
        sp_close(opened)
        throw FileError(
          "\(folder)/tokenizer_config.json: key 'extra_ids' is \(extra), expected 0 to 10000; fetch it again"
        )
      }
      added =
        [("<pad>", 0), ("</s>", 1), ("<unk>", 2)].map { (AddedToken(content: $0.0), $0.1) }
        + (0..<extra).map {
          (
            AddedToken(content: "<extra_id_\($0)>", lstrip: true, rstrip: true),
            pieces + extra - 1 - $0
          )
        }
    }
    vocabulary = max(pieces, 1 + (added.map(\.id).max() ?? 0))
    for (text, id) in [("<pad>", Self.padding), ("</s>", Self.end)]
    where sp_piece_id(opened, text, text.utf8.count) != id {
      sp_close(opened)
      throw FileError(
        "\(path): '\(text)' is not piece \(id), as in T5; use the tokenizer of the model's own text encoder"
      )
    }
    guard added.allSatisfy({ (0..<1 << 20).contains($0.id) && !$0.token.content.isEmpty }) else {
      sp_close(opened)
      throw FileError(
        "\(folder)/tokenizer_config.json: 'added_tokens_decoder' has an empty token or an id that is no"
          + " index; fetch it again")
    }
  }

  deinit { sp_close(model) }

  private struct Config: Decodable {
    var legacy: Bool?
    var extraIds: Int?
    var addedTokensDecoder: [String: AddedToken]?

    private enum CodingKeys: String, CodingKey {
      case legacy
      case extraIds = "extra_ids"
      case addedTokensDecoder = "added_tokens_decoder"
    }
  }

  private static func config(_ path: String) throws(FileError) -> Config? {
    guard access(path, F_OK) == 0 else { return nil }
    let text = try AtomicFile.read(path, limit: sizeLimit)
    guard let config = try? JSONDecoder().decode(Config.self, from: Data(text)) else {
      throw FileError("\(path): is no configuration of a T5Tokenizer; fetch it again")
    }
    return config
  }

  /// Returns the ids of a text, the end token last.
  ///
  /// - Parameters:
  ///   - text: Any text; it is not cleaned.
  ///   - limit: Largest number of ids: the first `limit` - 1 are kept and ended; nil for all.
  /// - Returns: The ids.
  /// - Throws: `FileError` if the tokenizer's configuration and the text need a rule that is not supported.
  package func encode(_ text: String, limit: Int? = nil) throws(FileError) -> [Int] {
    var ids: [Int] = []
    let parts = split(text)
    guard isLegacy || parts.allSatisfy({ $0.added == nil }) else {
      throw FileError(
        "\(path): its tokenizer_config.json sets 'legacy' to false, whose rule for text after special tokens"
          + " is not supported; leave special tokens out of the prompt")
    }
    for part in parts {
      if let token = part.added {
        ids.append(token)
      } else {
        ids += try pieces(part.text)
      }
    }
    if let limit { ids = Array(ids.prefix(limit - 1)) }
    return ids.last == Self.end ? ids : ids + [Self.end]
  }

  private func pieces(_ scalars: Substring.UnicodeScalarView) throws(FileError) -> [Int] {
    let text = Array(Substring(scalars).utf8)
    var found: UnsafeMutablePointer<Int32>?
    let count = text.withUnsafeBytes { bytes in
      sp_encode(
        model, bytes.bindMemory(to: CChar.self).baseAddress ?? UnsafePointer(bitPattern: 1),
        text.count,
        &found)
    }
    defer { free(found) }
    guard count >= 0, let found else {
      throw FileError("\(path): cannot encode the text; use another prompt")
    }
    return (0..<count).map { Int(found[$0]) }
  }

  private typealias Part = (text: Substring.UnicodeScalarView, added: Int?)

  /// Splits text at added tokens, the longest one at the leftmost place first, and strips white space where
  /// a token asks for it.
  private func split(_ text: String) -> [Part] {
    var parts: [Part] = []
    let scalars = text.unicodeScalars
    var (start, at) = (scalars.startIndex, scalars.startIndex)
    var stripsNext = false
    func close(_ end: String.UnicodeScalarView.Index, strippingEnd: Bool) {
      var piece = Substring(text).unicodeScalars[start..<end]
      if stripsNext { piece = piece.drop(while: \.isPythonSpace) }
      if strippingEnd {
        while let last = piece.last, last.isPythonSpace { piece.removeLast() }
      }
      if !piece.isEmpty { parts.append((piece, nil)) }
    }
    while at < scalars.endIndex {
      let rest = scalars[at...]
      let match = added.filter { rest.starts(with: $0.token.content.unicodeScalars) }
        .max { $0.token.content.unicodeScalars.count < $1.token.content.unicodeScalars.count }
      guard let match else {
        at = scalars.index(after: at)
        continue
      }
      close(at, strippingEnd: match.token.lstrip ?? false)
      parts.append((rest[at..<at], match.id))
      stripsNext = match.token.rstrip ?? false
      at = scalars.index(at, offsetBy: match.token.content.unicodeScalars.count)
      start = at
    }
    close(scalars.endIndex, strippingEnd: false)
    return parts
  }
}

extension Unicode.Scalar {
  /// Whether Python's `str.isspace` holds for the character.
  var isPythonSpace: Bool {
    switch value {
    case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F,
      0x205F,
      0x3000:
      true
    default: false
    }
  }
}
