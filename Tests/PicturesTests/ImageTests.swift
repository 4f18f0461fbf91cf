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
    try PNG.write(image, to: path)
    #expect(try PNG.read(path: path) == image)
    #expect(try Array(Data(contentsOf: URL(fileURLWithPath: path)).prefix(4)) == [137, 80, 78, 71])
    #expect(try scratch.listing() == ["image.png"])
  }

  @Test func damagedPNGIsRefused() throws {
    let scratch = try Scratch()
    let path = scratch.file("image.png")
    try PNG.write(gradient(16, 16), to: path)
    let whole = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    for count in stride(from: 0, to: whole.count - 12, by: 7) {
      let cut = try scratch.put(whole[..<count], "cut.png")
      #expect(throws: FileError.self, "\(count) bytes") { try PNG.read(path: cut) }
    }
    var huge = whole
    huge.replaceSubrange(16..<24, with: [0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF])
    let claim = try scratch.put(huge, "huge.png")
    #expect(throws: FileError.self) { try PNG.read(path: claim) }
  }

  @Test func scalingDownAveragesByArea() {
    let image = RGBImage(width: 3, height: 1, pixels: [0, 0, 0, 90, 30, 0, 240, 60, 255])
    let half = image.scaled(width: 1, height: 1)
    #expect(half.pixels == [110, 30, 85])
    // Two cells of one and a half columns each: (0 + 45) / 1.5 and (45 + 240) / 1.5.
    #expect(image.scaled(width: 2, height: 1).pixels == [30, 10, 0, 190, 50, 170])
  }

  @Test func scalingUpRepeats() {
    let image = RGBImage(width: 2, height: 1, pixels: [1, 2, 3, 4, 5, 6])
    let large = image.scaled(width: 4, height: 2)
    #expect(
      large.pixels == [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6])
    #expect(large.scaled(width: 2, height: 1) == image)
    // One axis up, the other down.
    #expect(image.scaled(width: 1, height: 2).pixels == [3, 4, 5, 3, 4, 5])
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
