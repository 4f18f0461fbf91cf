import CZlib
import Foundation
import Pictures
import Testing

import TerminalUI

/// The part of a terminal that kitty's graphics protocol speaks of: images, placements and the cursor.
///
/// Written from the protocol's description, independent of what sends.
private struct KittyTerminal {
  struct Image: Equatable { var width, height: Int, pixels: [UInt8] }
  struct Place: Hashable { var image: UInt32, placement: Int }
  struct Placement: Equatable {
    var column = 0, row = 0, columns = 0, rows = 0, isVirtual = false
  }

  var images: [UInt32: Image] = [:]
  var placements: [Place: Placement] = [:]
  /// Bytes of payload that have come in all.
  var payload = 0
  var faults: [String] = []
  private var cursor = (column: 0, row: 0)
  private var saved = (column: 0, row: 0)
  private var open: (keys: [String: String], text: [UInt8])?

  /// Takes bytes in; with `isMultiplexed` only what tmux hands on counts.
  mutating func take(_ bytes: [UInt8], isMultiplexed: Bool = false) {
    var rest = bytes[...]
    func until(_ end: [UInt8]) -> [UInt8]? {
      for index in rest.indices where rest[index...].starts(with: end) {
        // A doubled ESC inside tmux's wrapping is one of the contents'.
        if isMultiplexed, index > rest.startIndex, rest[index - 1] == 0x1b,
          (rest.startIndex..<index).reversed().prefix(while: { rest[$0] == 0x1b }).count % 2 == 1
        {
          continue
        }
        return Array(rest[..<index])
      }
      return nil
    }
    while !rest.isEmpty {
      if isMultiplexed {
        guard rest.starts(with: Array("\u{1b}Ptmux;".utf8)) else {
          faults.append("not wrapped: \(String(decoding: rest.prefix(20), as: UTF8.self))")
          return
        }
        rest = rest.dropFirst(7)
        guard let inner = until([0x1b, 0x5c]) else { return faults.append("no end") }
        rest = rest.dropFirst(inner.count + 2)
        var plain: [UInt8] = []
        var index = 0
        while index < inner.count {
          if inner[index] == 0x1b {
            if index + 1 >= inner.count || inner[index + 1] != 0x1b { faults.append("single ESC") }
            index += 1
          }
          plain.append(0x1b == inner[min(index, inner.count - 1)] ? 0x1b : inner[index])
          index += 1
        }
        take(plain)
      } else if rest.starts(with: [0x1b, 0x5f, 0x47]) {
        rest = rest.dropFirst(3)
        guard let body = until([0x1b, 0x5c]) else { return faults.append("no end") }
        rest = rest.dropFirst(body.count + 2)
        obey(body)
      } else if rest.starts(with: [0x1b, 0x37]) {
        saved = cursor
        rest = rest.dropFirst(2)
      } else if rest.starts(with: [0x1b, 0x38]) {
        cursor = saved
        rest = rest.dropFirst(2)
      } else if rest.starts(with: [0x1b, 0x5b]), let end = rest.firstIndex(of: 0x48) {
        let numbers = String(decoding: rest[(rest.startIndex + 2)..<end], as: UTF8.self)
          .split(separator: ";").compactMap { Int($0) }
        cursor = (numbers[1] - 1, numbers[0] - 1)
        rest = rest[(end + 1)...]
      } else {
        return faults.append("unknown: \(String(decoding: rest.prefix(20), as: UTF8.self))")
      }
    }
  }

  private mutating func obey(_ body: [UInt8]) {
    let split = body.firstIndex(of: 0x3b) ?? body.count
    var keys: [String: String] = [:]
    for pair in String(decoding: body[..<split], as: UTF8.self).split(separator: ",") {
      let parts = pair.split(separator: "=")
      keys[String(parts[0])] = String(parts[1])
    }
    let text = Array(body.dropFirst(split + 1))
    if keys["q"] != "2" { faults.append("an answer was not forbidden") }
    payload += text.count
    if text.count > 4096 { faults.append("a piece of \(text.count) bytes") }
    if var known = open {
      known.text += text
      open = known
      if keys.keys.contains(where: { !"mq".contains($0) }) {
        faults.append("keys in a later piece")
      }
    } else if keys["a"] == "t" {
      open = (keys, text)
    }
    if let whole = open {
      if keys["m"] == "1" {
        if text.count % 4 != 0 { faults.append("a piece that is not whole base64") }
      } else {
        open = nil
        receive(whole.keys, whole.text)
      }
      return
    }
    let place = Place(
      image: keys["i"].flatMap { UInt32($0) } ?? 0, placement: keys["p"].flatMap { Int($0) } ?? 0)
    switch (keys["a"], keys["d"]) {
    case ("p", _):
      guard images[place.image] != nil else { return faults.append("no image \(place.image)") }
      if keys["U"] == "1" {
        placements[place] = Placement(
          columns: Int(keys["c"] ?? "") ?? 0, rows: Int(keys["r"] ?? "") ?? 0, isVirtual: true)
      } else {
        if keys["C"] != "1" { faults.append("the cursor would move") }
        placements[place] = Placement(column: cursor.column, row: cursor.row)
      }
    case ("d", "i"): placements[place] = nil
    case ("d", "I"):
      images[place.image] = nil
      placements = placements.filter { $0.key.image != place.image }
    default: faults.append("unknown action \(keys)")
    }
  }

  private mutating func receive(_ keys: [String: String], _ text: [UInt8]) {
    let (width, height) = (Int(keys["s"] ?? "") ?? 0, Int(keys["v"] ?? "") ?? 0)
    guard keys["f"] == "24", keys["o"] == "z", let id = keys["i"].flatMap({ UInt32($0) }),
      let packed = Data(base64Encoded: Data(text))
    else { return faults.append("cannot read the pixels of \(keys)") }
    var pixels = [UInt8](repeating: 0, count: width * height * 3 + 1)
    var length = uLong(pixels.count)
    guard uncompress(&pixels, &length, Array(packed), uLong(packed.count)) == Z_OK,
      Int(length) == width * height * 3
    else { return faults.append("wrong number of pixels") }
    // Pixels sent anew take placements of the number with them.
    placements = placements.filter { $0.key.image != id }
    images[id] = Image(width: width, height: height, pixels: Array(pixels.dropLast()))
  }
}

@Suite struct KittyTests {
  private let size = Size(columns: 40, rows: 20, cell: PixelSize(10, 20))

  private func capabilities(around: Bool = false) -> TerminalCapabilities {
    var capabilities = TerminalCapabilities()
    capabilities.colors = 256
    capabilities.isMultiplexed = around
    capabilities.note(.kitty(id: around ? 32 : 31, isOK: true))
    capabilities.note(.deviceAttributes([62, 4]))
    capabilities.choose(.auto)
    return capabilities
  }

  private func noise(_ seed: Int, width: Int = 100, height: Int = 60) -> RGBImage {
    var state = UInt64(seed + 1)
    let pixels = (0..<(width * height * 3)).map { _ -> UInt8 in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return UInt8(truncatingIfNeeded: state >> 33)
    }
    return RGBImage(width: width, height: height, pixels: pixels)
  }

  private func image(
    _ id: String, _ seed: Int = 0, column: Int = 2, row: Int = 1
  ) -> ImagePlacement {
    ImagePlacement(
      id: id, column: column, row: row, columns: 10, rows: 4, picture: noise(seed))
  }

  private func frame(_ images: [ImagePlacement]) -> Frame {
    var frame = Frame(columns: size.columns, rows: size.rows)
    frame.images = images
    return frame
  }

  /// Shows a frame as `Terminal` does and returns the cells.
  @discardableResult
  private func show(
    _ frame: Frame, on layer: inout ImageLayer, _ terminal: inout KittyTerminal,
    around: Bool = false
  ) -> (cells: [ScreenCell], bytes: Int) {
    let cells = layer.compose(frame, size: size, capabilities: capabilities(around: around))
    var bytes = layer.takeRemovals()
    for emission in layer.takeEmissions(limit: 99) { bytes += layer.kitty.draw(emission) ?? [] }
    terminal.take(bytes, isMultiplexed: around)
    #expect(terminal.faults == [])
    return (cells, bytes.count)
  }

  @Test func thePixelsArriveInPieces() throws {
    var (layer, terminal) = (ImageLayer(), KittyTerminal())
    show(frame([image("a")]), on: &layer, &terminal)
    let shown = try #require(terminal.placements.first)
    #expect(shown.value == .init(column: 2, row: 1) && terminal.placements.count == 1)
    #expect(
      terminal.images[shown.key.image]
        == .init(width: 100, height: 60, pixels: noise(0).pixels))
    #expect(terminal.payload > 20_000, "in several pieces")
    // Nothing changes: nothing is sent.
    #expect(show(frame([image("a")]), on: &layer, &terminal).bytes == 0)
  }

  @Test func anImageUnderAPopupComesBackWithoutItsPixels() {
    var (layer, terminal) = (ImageLayer(), KittyTerminal())
    show(frame([image("a")]), on: &layer, &terminal)
    let payload = terminal.payload
    var covered = frame([image("a")])
    covered.fill(column: 4, row: 2, columns: 20, rows: 6)
    let cells = show(covered, on: &layer, &terminal).cells
    #expect(terminal.placements.isEmpty && cells[size.columns + 2].character == "▀")
    show(frame([image("a")]), on: &layer, &terminal)
    #expect(terminal.placements.count == 1 && terminal.payload == payload)
  }

  @Test func movedAndChangedImagesLeaveNothingBehind() throws {
    var (layer, terminal) = (ImageLayer(), KittyTerminal())
    show(frame([image("a")]), on: &layer, &terminal)
    show(frame([image("a", column: 9, row: 7)]), on: &layer, &terminal)
    #expect(terminal.placements.map(\.value) == [.init(column: 9, row: 7)])
    show(frame([image("a", 1, column: 9, row: 7)]), on: &layer, &terminal)
    let shown = try #require(terminal.placements.first)
    #expect(terminal.placements.count == 1)
    #expect(terminal.images[shown.key.image]?.pixels == noise(1).pixels)
    show(frame([]), on: &layer, &terminal)
    #expect(terminal.placements.isEmpty)
  }

  @Test(arguments: [false, true])
  func theTerminalNeverHoldsMany(around: Bool) {
    var (layer, terminal) = (ImageLayer(), KittyTerminal())
    for seed in 0..<60 {
      let images = [image("a", seed), image("b", seed + 100, column: 20)]
      show(frame(images), on: &layer, &terminal, around: around)
      #expect(terminal.images.count <= 15 && terminal.placements.count <= 2)
      let shown = terminal.placements.compactMap { terminal.images[$0.key.image]?.pixels }
      #expect(Set(shown) == [noise(seed).pixels, noise(seed + 100).pixels])
    }
    terminal.take(layer.invalidate(), isMultiplexed: around)
    #expect(terminal.images.isEmpty && terminal.placements.isEmpty && terminal.faults == [])
    // Everything is sent again afterwards.
    show(frame([image("a")]), on: &layer, &terminal, around: around)
    #expect(terminal.images.count == 1 && terminal.placements.count == 1)
  }

  @Test func placeholdersTellTheirPlaceAndImage() throws {
    var (layer, terminal) = (ImageLayer(), KittyTerminal())
    let cells = show(frame([image("a")]), on: &layer, &terminal, around: true).cells
    let shown = try #require(terminal.placements.first)
    // 100 x 60 pixels in cells of 10 x 20.
    #expect(shown.value == .init(columns: 10, rows: 3, isVirtual: true))
    // Values of the protocol's own table.
    let table = [0x305, 0x30d, 0x30e, 0x310, 0x312, 0x33d, 0x33e, 0x33f, 0x346, 0x34a]
    for (row, column) in [(0, 0), (2, 0), (0, 9), (2, 7), (1, 4)] {
      let cell = cells[(1 + row) * size.columns + 2 + column]
      let scalars = cell.character.unicodeScalars.map { Int($0.value) }
      #expect(scalars.count == 4 && scalars[0] == 0x10eeee)
      #expect(scalars[1] == table[row] && scalars[2] == table[column])
      let upper = try #require(
        KittyGraphics.marks.firstIndex { Int($0.value) == scalars[3] })
      guard case .index(let lower) = cell.style.foreground else {
        Issue.record("no colour of the palette")
        return
      }
      #expect(UInt32(upper) << 24 | UInt32(lower) == shown.key.image && lower >= 16)
    }
    #expect(cells[4 * size.columns + 2].character == " ")
    // Text lies over a part of it; the rest stays, and nothing is sent.
    var covered = frame([image("a")])
    covered.put("text", column: 4, row: 2)
    let after = show(covered, on: &layer, &terminal, around: true)
    #expect(after.bytes == 0 && after.cells[2 * size.columns + 4].character == "t")
    #expect(after.cells[2 * size.columns + 3] == cells[2 * size.columns + 3])
  }

  @Test func theMarksAreThoseOfTheProtocol() {
    let marks = KittyGraphics.marks.map { Int($0.value) }
    #expect(marks.count == 297)
    for (index, value) in [
      (0, 0x305), (16, 0x35b), (30, 0x483), (59, 0x616), (100, 0x749), (150, 0x829), (200, 0x1b71),
      (256, 0x2df0), (283, 0xfe23), (296, 0x1d244),
    ] {
      #expect(marks.firstIndex(of: value) != nil, "\(index)")
    }
    #expect(marks == marks.sorted() && marks[0] == 0x305 && marks[296] == 0x1d244)
  }

  @Test func theBestThatIsReportedIsChosen() {
    #expect(capabilities().graphics == .kitty && !capabilities().usesPlaceholders)
    #expect(capabilities(around: true).graphics == .kitty)
    #expect(capabilities(around: true).usesPlaceholders)
    var poor = capabilities(around: true)
    poor.colors = 8
    poor.choose(.auto)
    #expect(poor.graphics == .sixel, "eight colours cannot tell images apart")
    poor.note(.kitty(id: 32, isOK: false))
    poor.note(.deviceAttributes([62]))
    poor.choose(.auto)
    #expect(poor.graphics == .ascii)
  }
}
