import Pictures
import Testing

import TerminalUI

/// A small sixel decoder, independent of libsixel: what was drawn where.
private struct DecodedSixel {
  var declared: (width: Int, height: Int) = (0, 0)
  /// Colours by (row, column); nil where nothing was drawn.
  var pixels: [[(Int, Int, Int)?]] = []

  init?(_ bytes: [UInt8]) {
    guard bytes.starts(with: [0x1b, 0x50]), bytes.suffix(2).elementsEqual([0x1b, 0x5c]),
      let start = bytes.firstIndex(of: UInt8(ascii: "q"))
    else { return nil }
    var registers: [Int: (Int, Int, Int)] = [:]
    var (x, y, color, index) = (0, 0, 0, start + 1)
    let end = bytes.count - 2
    func numbers() -> [Int] {
      var values = [0]
      while index < end {
        if (0x30...0x39).contains(bytes[index]) {
          values[values.count - 1] = values[values.count - 1] * 10 + Int(bytes[index] - 0x30)
        } else if bytes[index] == 0x3b {
          values.append(0)
        } else {
          break
        }
        index += 1
      }
      return values
    }
    while index < end {
      let byte = bytes[index]
      index += 1
      var count = 1
      var sixel = byte
      switch byte {
      case UInt8(ascii: "\""):
        let values = numbers()
        guard values.count == 4 else { return nil }
        declared = (values[2], values[3])
        continue
      case UInt8(ascii: "#"):
        let values = numbers()
        color = values[0]
        if values.count == 5 && values[1] == 2 {
          registers[color] = (values[2], values[3], values[4])
        }
        continue
      case UInt8(ascii: "$"):
        x = 0
        continue
      case UInt8(ascii: "-"):
        x = 0
        y += 6
        continue
      case UInt8(ascii: "!"):
        count = numbers()[0]
        sixel = bytes[index]
        index += 1
      case 0x0a, 0x0d: continue
      default: break
      }
      guard (0x3f...0x7e).contains(sixel) else { return nil }
      for _ in 0..<count {
        for bit in 0..<6 where (sixel - 0x3f) >> UInt8(bit) & 1 == 1 {
          while pixels.count <= y + bit { pixels.append([]) }
          while pixels[y + bit].count <= x { pixels[y + bit].append(nil) }
          pixels[y + bit][x] = registers[color]
        }
        x += 1
      }
    }
  }
}

@Suite struct SixelTests {
  @Test(arguments: [(12, 12), (31, 18), (130, 126), (64, 60)])
  func encodedPixelsAreThePixels(width: Int, height: Int) throws {
    var bytes: [UInt8] = []
    for y in 0..<height {
      for x in 0..<width { bytes += (x / 4 + y / 3) % 2 == 0 ? [255, 0, 102] : [0, 51, 204] }
    }
    let pixels = RGBImage(width: width, height: height, pixels: bytes)
    let encoded = try #require(SixelEncoder.encode(pixels, colors: 256))
    let decoded = try #require(DecodedSixel(encoded))
    #expect(decoded.declared == (width, height))
    #expect(decoded.pixels.count == height, "nothing below the image")
    for y in 0..<height {
      #expect(decoded.pixels[y].count == width, "nothing beside the image")
      for x in 0..<width {
        let drawn = try #require(decoded.pixels[y][x], "every pixel is drawn")
        // Colours are percentages in sixels, and libsixel keeps five bits of each.
        let wanted = pixels.at(x, y)
        #expect(abs(drawn.0 - Int(wanted.0) * 100 / 255) <= 3)
        #expect(abs(drawn.1 - Int(wanted.1) * 100 / 255) <= 3)
        #expect(abs(drawn.2 - Int(wanted.2) * 100 / 255) <= 3)
      }
    }
  }

  @Test func manyColoursStayNear() throws {
    var bytes: [UInt8] = []
    for y in 0..<60 { for x in 0..<60 { bytes += [UInt8(x * 4), UInt8(y * 4), 128] } }
    let pixels = RGBImage(width: 60, height: 60, pixels: bytes)
    let decoded = try #require(DecodedSixel(SixelEncoder.encode(pixels, colors: 64) ?? []))
    var worst = 0
    for y in 0..<60 {
      for x in 0..<60 {
        let drawn = try #require(decoded.pixels[y][x])
        worst = max(worst, abs(drawn.0 * 255 / 100 - x * 4), abs(drawn.1 * 255 / 100 - y * 4))
      }
    }
    #expect(worst < 40)
  }

  @Test func impossibleSizesAreRefused() {
    let long = RGBImage(width: 5000, height: 1)
    #expect(SixelEncoder.encode(long, colors: 256) == nil)
  }

  @Test func theEncoderRemembersBySizeAndContent() {
    var encoder = SixelEncoder()
    let red = ImagePlacement.solid(id: "a", column: 0, row: 0, columns: 2, rows: 2)
    let first = encoder.bytes(of: red, width: 12, height: 12, colors: 16)
    #expect(first?.isEmpty == false)
    // Other pixels that claim the same hash: the remembered bytes answer, but only at the same size.
    var claimed = ImagePlacement.solid(
      id: "b", column: 0, row: 0, columns: 2, rows: 2, color: (0, 0, 200))
    let hash = claimed.contentHash
    claimed.contentHash = red.contentHash
    #expect(encoder.bytes(of: claimed, width: 12, height: 12, colors: 16) == first)
    #expect(encoder.bytes(of: claimed, width: 12, height: 18, colors: 16) != first)
    claimed.contentHash = hash
    #expect(encoder.bytes(of: claimed, width: 12, height: 12, colors: 16) != first)
  }

  @Test func placedBytesSaveAndRestoreTheCursor() {
    let image = ImagePlacement.solid(id: "a", column: 4, row: 2, columns: 2, rows: 2)
    let bytes = ImageLayer.bytes(of: .init(image: image, width: 12, height: 12), sixels: [1, 2])
    #expect(bytes == Array("\u{1b}7\u{1b}[3;5H".utf8) + [1, 2] + Array("\u{1b}8".utf8))
  }

  /// tmux hands sixels on when they are asked for: every ESC twice, at the pane's place on the screen around it.
  @Test func tmuxHandsSixelsOn() throws {
    let image = ImagePlacement.solid(id: "a", column: 4, row: 2, columns: 2, rows: 1)
    let pane = try #require(TmuxPane("40 3 top on\n"))
    #expect((pane.column, pane.row) == (40, 4))
    let bytes = pane.bytes(
      of: .init(image: image, width: 12, height: 12), sixels: Array("\u{1b}Pq~\u{1b}\\".utf8))
    #expect(
      String(decoding: bytes, as: UTF8.self)
        == "\u{1b}7\u{1b}[r\u{1b}8\u{1b}Ptmux;\u{1b}\u{1b}7\u{1b}\u{1b}[7;45H\u{1b}\u{1b}Pq~"
        + "\u{1b}\u{1b}\\\u{1b}\u{1b}8\u{1b}\\")
    #expect(TmuxPane("0 0 bottom on")?.row == 0 && TmuxPane("0 1 top 2")?.row == 3)
    #expect(TmuxPane("0 0 top off")?.row == 0 && TmuxPane("no server running") == nil)
    var capabilities = TerminalCapabilities()
    capabilities.isMultiplexed = true
    capabilities.colors = 256
    capabilities.choose(.auto)
    #expect(!capabilities.passesSixels && capabilities.graphics == .blocks)
    capabilities.choose(.sixel)
    #expect(capabilities.passesSixels)
    capabilities.note(.deviceAttributes([62, 4]))
    #expect(!capabilities.passesSixels, "this tmux draws them itself")
  }
}
