import Foundation

/// Repairs of characters that `ftfy.fix_text` does by default, but for text decoded in a wrong encoding.
enum TextRepair {
  /// Returns repaired text in normalization form C.
  static func repaired(_ text: String) -> String {
    var text = text
    // A repair can make another one apply; each pass shortens the list of what is left.
    for _ in 0..<8 {
      let next = pass(text)
      if next == text, next.utf8.elementsEqual(text.utf8) { break }
      text = next
    }
    return text
  }

  private static let ligatures: [Unicode.Scalar: String] = [
    "\u{132}": "IJ", "\u{133}": "ij", "\u{149}": "\u{2BC}n", "\u{1C4}": "D\u{17D}",
    "\u{1C5}": "D\u{17E}",
    "\u{1C6}": "d\u{17E}", "\u{1C7}": "LJ", "\u{1C8}": "Lj", "\u{1C9}": "lj", "\u{1CA}": "NJ",
    "\u{1CB}": "Nj", "\u{1CC}": "nj", "\u{1F1}": "DZ", "\u{1F2}": "Dz", "\u{1F3}": "dz",
    "\u{FB00}": "ff",
    "\u{FB01}": "fi", "\u{FB02}": "fl", "\u{FB03}": "ffi", "\u{FB04}": "ffl",
    "\u{FB05}": "\u{17F}t",
    "\u{FB06}": "st",
  ]

  private static func pass(_ text: String) -> String {
    var unescaped = text
    // Where tags are left, references may be meant.
    if !text.contains("<") {
      unescaped = text.replacing(#/&#?[0-9A-Za-z]{1,24};/#) { match in
        CaptionCleaning.unescaped(String(match.output))
      }
    }
    unescaped = unescaped.replacing(#/\u{1B}\[[0-9;]*[a-zA-Z]/#, with: "")
    var result = String.UnicodeScalarView()
    var previous: Unicode.Scalar?
    for scalar in unescaped.unicodeScalars {
      defer { previous = scalar }
      switch scalar.value {
      case 0x0A where previous == "\r": continue
      case 0x0D, 0x2028, 0x2029, 0x85: result.append("\n")
      case 0x80...0x9F:
        result.append(contentsOf: Windows1252.character(UInt8(scalar.value)).unicodeScalars)
      case 0x00...0x08, 0x0B, 0x0E...0x1F, 0x7F, 0x206A...0x206F, 0xFEFF, 0xFFF9...0xFFFC: continue
      case 0x3000: result.append(" ")
      case 0xFF01...0xFFEF:
        result.append(
          contentsOf: String(scalar).precomposedStringWithCompatibilityMapping.unicodeScalars)
      case 0x2BC, 0x2018...0x201B: result.append("'")
      case 0x201C...0x201F: result.append("\"")
      default:
        result.append(contentsOf: ligatures[scalar].map { Array($0.unicodeScalars) } ?? [scalar])
      }
    }
    return String(result).precomposedStringWithCanonicalMapping
  }
}
