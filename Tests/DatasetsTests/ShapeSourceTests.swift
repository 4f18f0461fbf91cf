import Datasets
import Testing

@Suite struct ShapeSourceTests {
  private let side = ShapeSource.side

  /// FNV-1a over the bytes.
  private func hash(_ bytes: [UInt8]) -> UInt64 {
    bytes.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
  }

  private func pixel(_ pixels: [UInt8], _ column: Int, _ row: Int) -> SIMD3<Float> {
    let at = (row * side + column) * 3
    return SIMD3(Float(pixels[at]), Float(pixels[at + 1]), Float(pixels[at + 2]))
  }

  private func luma(_ color: SIMD3<Float>) -> Float {
    0.299 * color.x + 0.587 * color.y + 0.114 * color.z
  }

  private func lumas(_ pixels: [UInt8]) -> [Float] {
    (0..<side * side).map { luma(pixel(pixels, $0 % side, $0 / side)) }
  }

  /// Mean luma of the four corners, which no shape reaches.
  private func paper(_ pixels: [UInt8]) -> Float {
    let last = side - 1
    return [(0, 0), (last, 0), (0, last), (last, last)]
      .map { luma(pixel(pixels, $0.0, $0.1)) }.reduce(0, +) / 4
  }

  /// For each pixel, whether it differs clearly from the paper.
  private func mask(_ pixels: [UInt8]) -> [Bool] {
    let ground = paper(pixels)
    return lumas(pixels).map { abs($0 - ground) > 45 }
  }

  @Test(
    "The images of a stream never change",
    arguments: [
      (seed: 1, index: 0, hash: 0x9DB5_D586_D8B2_C767),
      (seed: 1, index: 1, hash: 0x8847_C49D_1C6B_DCF0),
      (seed: 1, index: 2, hash: 0x1894_6C3E_EE02_AB7E),
      (seed: 1, index: 3, hash: 0x2F13_BA4A_A93A_0571),
      (seed: 1, index: 4, hash: 0xFC67_FE50_7448_CB2F),
      (seed: 1, index: 5, hash: 0x683F_C9FC_2C8D_2591),
      (seed: 1, index: 6, hash: 0xA58C_818F_9ABF_42E7),
      (seed: 1, index: 7, hash: 0x04FF_098A_9F4E_F752),
      (seed: 1, index: 8, hash: 0xE32D_18E1_5442_6CA9),
      (seed: 1, index: 9, hash: 0x786F_7ED8_7E37_E6A6),
      (seed: 2, index: 4321, hash: 0x054A_E1AE_D03A_1747),
    ] as [(seed: UInt64, index: Int, hash: UInt64)])
  func golden(seed: UInt64, index: Int, hash expected: UInt64) {
    let image = ShapeSource(seed: seed).image(index: index)
    #expect(hash(image.pixels) == expected)
  }

  @Test func orderDoesNotMatter() {
    let forward = (0..<40).map { ShapeSource(seed: 7).image(index: $0).pixels }
    let source = ShapeSource(seed: 7)
    let backward = (0..<40).reversed().map { source.image(index: $0).pixels }
    #expect(forward == Array(backward.reversed()))
  }

  @Test func seedsAndIndicesGiveDifferentImages() {
    let images = (0..<8).flatMap { seed in
      (0..<8).map { ShapeSource(seed: seed).image(index: $0 * 10).pixels }
    }
    #expect(Set(images).count == images.count)
  }

  @Test func labelsAreBalanced() {
    let source = ShapeSource(seed: 1)
    var counts = [Int](repeating: 0, count: ShapeSource.numClasses)
    for index in 0..<50 { counts[source.image(index: index).label] += 1 }
    #expect(counts == [Int](repeating: 5, count: 10))
    #expect(ShapeSource.classNames.count == 10)
    #expect(Set(ShapeSource.classNames).count == 10)
  }

  /// With a given class, only the outline changes: size, place, and colours stay.
  @Test func aGivenLabelKeepsTheRest() {
    let source = ShapeSource(seed: 3)
    let disc = source.image(index: 14, label: 0)
    let square = source.image(index: 14, label: 2)
    #expect(disc.label == 0)
    #expect(square.label == 2)
    #expect(disc.pixels != square.pixels)
    #expect(source.image(index: 14, label: 4).pixels == source.image(index: 14).pixels)
    #expect(pixel(disc.pixels, 0, 0) == pixel(square.pixels, 0, 0))
    #expect(pixel(disc.pixels, 32, 32) == pixel(square.pixels, 32, 32))
  }

  @Test("The shape stands out from the background and fits into the image", arguments: 0..<10)
  func contrastAndMargin(label: Int) {
    let source = ShapeSource(seed: 11)
    for index in 0..<40 {
      let pixels = source.image(index: index, label: label).pixels
      let ground = paper(pixels)
      let contrast = lumas(pixels).map { abs($0 - ground) }.max() ?? 0
      #expect(contrast > 65, "index \(index)")

      let shape = mask(pixels)
      let area = shape.count(where: { $0 })
      #expect(area > 130 && area < 1700, "index \(index), area \(area)")
      // At most one corner may touch the outermost pixels.
      let border = shape.indices.count { at in
        let (column, row) = (at % side, at / side)
        let outermost = column == 0 || row == 0 || column == side - 1 || row == side - 1
        return outermost && shape[at]
      }
      #expect(border <= 3, "index \(index)")
    }
  }

  /// Rings and diamond rings enclose background; no other shape does.
  @Test("Topology of the classes", arguments: 0..<10)
  func holes(label: Int) {
    let expected = [0, 1, 0, 1, 0, 0, 0, 0, 0, 0][label]
    let parts = label == 8 ? 3 : 1
    let source = ShapeSource(seed: 5)
    for index in 0..<12 {
      let shape = mask(source.image(index: index, label: label).pixels)
      #expect(regions(of: shape, value: true) == parts, "index \(index)")
      #expect(regions(of: shape, value: false) == expected + 1, "index \(index)")
    }
  }

  /// The number of 4-connected regions of one value; tips cut off by the threshold do not count.
  private func regions(of mask: [Bool], value: Bool) -> Int {
    var seen = mask.map { $0 != value }
    var count = 0
    for start in mask.indices where !seen[start] {
      var size = 0
      var pending = [start]
      seen[start] = true
      while let at = pending.popLast() {
        size += 1
        let (column, row) = (at % side, at / side)
        var neighbours: [Int] = []
        if column > 0 { neighbours.append(at - 1) }
        if column < side - 1 { neighbours.append(at + 1) }
        if row > 0 { neighbours.append(at - side) }
        if row < side - 1 { neighbours.append(at + side) }
        for next in neighbours where !seen[next] {
          seen[next] = true
          pending.append(next)
        }
      }
      if size >= 6 { count += 1 }
    }
    return count
  }
}
