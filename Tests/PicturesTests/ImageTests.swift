import Files
import Foundation
import Pictures
import TestSupport
import Testing

@Suite struct ImageTests {
  private func gradient(_ width: Int, _ height: Int) -> RGBImage {
    RGBImage(
      width: width, height: height,
      pixels: (0..<3 * width * height).map { UInt8(truncatingIfNeeded: $0 &* 37 ^ $0 >> 3) })
  }

  @Test(arguments: [(1, 1), (7, 3), (64, 64), (301, 5)])
  func pngRoundTrip(width: Int, height: Int) throws {
    let scratch = try Scratch()
    let image = gradient(width, height)
    let path = scratch.file("image.png")
    try image.write(to: path)
    #expect(try RGBImage.read(path: path) == image)
    #expect(try Array(Data(contentsOf: URL(fileURLWithPath: path)).prefix(4)) == [137, 80, 78, 71])
    #expect(try scratch.listing() == ["image.png"])
  }

  @Test func damagedPNGIsRefused() throws {
    let scratch = try Scratch()
    let path = scratch.file("image.png")
    try gradient(16, 16).write(to: path)
    let whole = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    for count in stride(from: 0, to: whole.count - 12, by: 7) {
      let cut = try scratch.put(whole[..<count], "cut.png")
      #expect(throws: FileError.self, "\(count) bytes") { try RGBImage.read(path: cut) }
    }
    var huge = whole
    huge.replaceSubrange(16..<24, with: [0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF])
    let claim = try scratch.put(huge, "huge.png")
    #expect(throws: FileError.self) { try RGBImage.read(path: claim) }
  }

  @Test func enlargingByTheBoxRepeats() {
    let image = RGBImage(width: 2, height: 1, pixels: [1, 2, 3, 4, 5, 6])
    let large = image.resampled(width: 4, height: 2, .box)
    #expect(
      large.pixels == [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6])
    #expect(large.resampled(width: 2, height: 1, .bicubic) == image)
    #expect(image.resampled(width: 1, height: 2, .box).pixels == [3, 4, 5, 3, 4, 5])
  }

  /// A part of a resized picture is that part of the whole, whichever axis comes first.
  @Test(arguments: [(31, 17), (17, 90)])
  func partsAreThoseOfTheWhole(width: Int, height: Int) {
    let image = gradient(width, height)
    let whole = image.resampled(width: 12, height: 14, .bicubic)
    let part = image.resampled(width: 12, height: 14, .bicubic, columns: 3..<8, rows: 5..<13)
    for row in 0..<8 {
      for column in 0..<5 { #expect(part.at(column, row) == whole.at(column + 3, row + 5)) }
    }
  }

  /// A header that claims more pixels than its bytes can hold is refused before memory is taken.
  @Test func claimsBeyondTheBytesAreRefused() throws {
    let scratch = try Scratch()
    let path = scratch.file("image.png")
    try gradient(16, 16).write(to: path)
    var whole = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    whole.replaceSubrange(16..<24, with: [0, 0, 0x30, 0, 0, 0, 0x30, 0])
    let claim = try scratch.put(whole, "claim.png")
    let error = #expect(throws: FileError.self) { try RGBImage.read(path: claim) }
    #expect(error?.message.contains("claims 12288x12288 pixels in \(whole.count) bytes") == true)
  }

  @Test func gridPlacesRowByRow() {
    let images = (1...3).map { RGBImage(width: 2, height: 1, grey: UInt8($0 * 50)) }
    let grid = RGBImage.grid(images, columns: 2, gap: 1)
    #expect(grid.width == 5 && grid.height == 3)
    let greys = stride(from: 0, to: grid.pixels.count, by: 3).map { grid.pixels[$0] }
    #expect(greys == [50, 50, 24, 100, 100, 24, 24, 24, 24, 24, 150, 150, 24, 24, 24])
    #expect(RGBImage.grid([images[0]], columns: 4, gap: 2) == images[0])
  }
}
