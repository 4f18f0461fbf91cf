import CZlib
import Foundation
import Pictures

/// The images that the terminal holds for this program, by the kitty graphics protocol.
///
/// Pixels are sent once for each content and size, zlib-compressed, in pieces of base64 text, under an image number of
/// our own. A placement shows an image at a cell; it is named by a number that follows the placement's name, so that
/// showing it elsewhere moves it. Inside a multiplexer an image is placed by *placeholders* instead: characters whose
/// marks tell row and column of the part of the image, and whose colour tells its number.
package struct KittyGraphics: Sendable {
  /// An image as it is sent.
  private struct Content: Hashable {
    var contentHash, width, height: Int
  }

  /// Most images that the terminal holds besides those that are shown.
  private static let capacity = 12
  /// Most bytes of base64 text in one piece.
  private static let pieceLength = 4096
  /// Numbers of images under which a colour of the palette tells the lower byte.
  private static let colors = 16...255

  /// The upper byte of image numbers, so that programs in one terminal do not take each other's.
  private let series: UInt32
  private var numbers: [Content: UInt32] = [:]
  private var sent: Set<UInt32> = []
  /// Contents with a number, the one used last at the end.
  private var order: [Content] = []
  private var nextColor = KittyGraphics.colors.lowerBound
  private var placements: [String: (number: Int, image: UInt32)] = [:]
  private var placementNumbers: [String: Int] = [:]
  /// Whether placements are virtual and everything goes through tmux.
  package var isMultiplexed = false

  /// Holds nothing; `series` is the upper byte of image numbers, from 1 to 255.
  package init(series: UInt8 = .random(in: 1...255)) { self.series = UInt32(max(1, series)) << 24 }

  /// Whether the terminal may hold something of this program.
  package var isEmpty: Bool { sent.isEmpty }

  // MARK: - Images

  /// The number of an image at a size in pixels, and the bytes that let the terminal forget the one used longest ago if
  /// there are too many.
  mutating func number(of image: ImagePlacement, width: Int, height: Int) -> UInt32 {
    let content = Content(contentHash: image.contentHash, width: width, height: height)
    order.removeAll { $0 == content }
    order.append(content)
    if let known = numbers[content] { return known }
    let used = Set(numbers.values)
    var number = series | UInt32(nextColor)
    while used.contains(number) {
      nextColor = nextColor == Self.colors.upperBound ? Self.colors.lowerBound : nextColor + 1
      number = series | UInt32(nextColor)
    }
    nextColor = nextColor == Self.colors.upperBound ? Self.colors.lowerBound : nextColor + 1
    numbers[content] = number
    return number
  }

  /// The bytes that show an image at its place: its pixels if the terminal does not hold them, and a placement.
  ///
  /// Nil if the pixels cannot be compressed.
  package mutating func draw(_ emission: ImageLayer.Emission) -> [UInt8]? {
    let image = emission.image
    let number = number(of: image, width: emission.width, height: emission.height)
    var bytes = forgetOldest()
    if !sent.contains(number) {
      guard let pixels = pixels(of: emission, number: number) else { return nil }
      bytes += pixels
      sent.insert(number)
    }
    let old = placements[image.id]
    let placement = placementNumbers[image.id] ?? placementNumbers.count + 1
    placementNumbers[image.id] = placement
    placements[image.id] = (placement, number)
    if isMultiplexed {
      bytes += command(
        "a=p,U=1,q=2,i=\(number),p=\(placement),c=\(emission.columns),r=\(emission.rows)")
    } else {
      let move = "\u{1b}7\u{1b}[\(image.row + 1);\(image.column + 1)H"
      bytes += Array(move.utf8) + command("a=p,C=1,q=2,i=\(number),p=\(placement)")
      bytes += Array("\u{1b}8".utf8)
    }
    if let old, old.image != number { bytes += removal(old) }
    return bytes
  }

  /// The bytes that take placements off the screen; their pixels stay with the terminal.
  package mutating func remove(_ ids: some Sequence<String>) -> [UInt8] {
    ids.flatMap { id in placements.removeValue(forKey: id).map(removal) ?? [] }
  }

  /// The bytes that free everything which the terminal holds for this program.
  package mutating func removeAll() -> [UInt8] {
    let bytes = sent.sorted().flatMap { command("a=d,d=I,q=2,i=\($0)") }
    (sent, placements, numbers, order) = ([], [:], [:], [])
    return bytes
  }

  /// What frees everything after a crash: all images of the alternate screen.
  func crashBytes() -> [UInt8] { command("a=d,d=A,q=2") }

  private func removal(_ placement: (number: Int, image: UInt32)) -> [UInt8] {
    command("a=d,d=i,q=2,i=\(placement.image),p=\(placement.number)")
  }

  private mutating func forgetOldest() -> [UInt8] {
    let shown = Set(placements.values.map(\.image))
    var bytes: [UInt8] = []
    while order.count > Self.capacity + shown.count,
      let index = order.dropLast().firstIndex(where: { !shown.contains(numbers[$0] ?? 0) })
    {
      guard let number = numbers.removeValue(forKey: order.remove(at: index)) else { continue }
      if sent.remove(number) != nil { bytes += command("a=d,d=I,q=2,i=\(number)") }
    }
    return bytes
  }

  private func pixels(of emission: ImageLayer.Emission, number: UInt32) -> [UInt8]? {
    let picture = emission.image.scaled(width: emission.width, height: emission.height)
    var length = compressBound(uLong(picture.pixels.count))
    var packed = [UInt8](repeating: 0, count: Int(length))
    guard compress2(&packed, &length, picture.pixels, uLong(picture.pixels.count), 6) == Z_OK else {
      return nil
    }
    let text = Array(Data(packed.prefix(Int(length))).base64EncodedData())
    var bytes: [UInt8] = []
    for start in stride(from: 0, to: text.count, by: Self.pieceLength) {
      let end = min(text.count, start + Self.pieceLength)
      let keys =
        start == 0
        ? "a=t,t=d,f=24,o=z,q=2,s=\(picture.width),v=\(picture.height),i=\(number)," : "q=2,"
      bytes += command("\(keys)m=\(end < text.count ? 1 : 0)", payload: text[start..<end])
    }
    return bytes
  }

  private func command(_ keys: String, payload: ArraySlice<UInt8> = []) -> [UInt8] {
    let separator = payload.isEmpty ? "" : ";"
    let bytes = Array("\u{1b}_G\(keys)\(separator)".utf8) + payload + Array("\u{1b}\\".utf8)
    return isMultiplexed ? Self.passed(bytes) : bytes
  }

  /// Bytes that tmux hands on to the terminal around it.
  static func passed(_ bytes: [UInt8]) -> [UInt8] {
    Array("\u{1b}Ptmux;".utf8) + bytes.flatMap { $0 == 0x1b ? [0x1b, 0x1b] : [$0] }
      + Array("\u{1b}\\".utf8)
  }

  // MARK: - Placeholders

  /// The cell that shows a part of an image.
  static func placeholder(_ number: UInt32, row: Int, column: Int) -> ScreenCell? {
    guard marks.indices.contains(row), marks.indices.contains(column) else { return nil }
    var text = String.UnicodeScalarView()
    text.append("\u{10EEEE}")
    for index in [row, column, Int(number >> 24)] { text.append(marks[index]) }
    return ScreenCell(
      character: Character(String(text)),
      style: Style(foreground: .index(UInt8(truncatingIfNeeded: number))))
  }

  /// The marks that stand for numbers: the protocol takes characters of Unicode 6.0 that are placed above others and
  /// are never composed with them.
  package static let marks: [Unicode.Scalar] = {
    let composing: Set<UInt32> = [
      0x300, 0x301, 0x302, 0x303, 0x304, 0x306, 0x307, 0x308, 0x309, 0x30a, 0x30b, 0x30c, 0x30f,
      0x311, 0x313, 0x314, 0x342, 0x653, 0x654,
    ]
    return (UInt32(0x300)...0x1d244).compactMap(Unicode.Scalar.init).filter { scalar in
      let properties = scalar.properties
      guard properties.canonicalCombiningClass == .above, let age = properties.age,
        age.major < 6 || age.major == 6 && age.minor == 0, !composing.contains(scalar.value)
      else { return false }
      return properties.generalCategory == .nonspacingMark
        && Array(String(Character(scalar)).decomposedStringWithCanonicalMapping.unicodeScalars)
          == [scalar]
    }
  }()
}
