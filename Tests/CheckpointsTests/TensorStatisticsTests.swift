import Checkpoints
import Foundation
import Testing

@Suite struct TensorStatisticsTests {
  @Test func finiteElementsAreSummarisedAndOthersCounted() {
    let known = TensorStatistics([3, 0, -1, .nan, .infinity, 0] as [Float])
    #expect(known.mean == 0.5 && known.rms == (10.0 / 4).squareRoot())
    #expect(known.smallest == -1 && known.largest == 3)
    #expect(known.zeros == 2 && known.nonFinite == 2)
    for nothing in [[], [Float.nan]] {
      let none = TensorStatistics(nothing)
      #expect(none.mean == nil && none.rms == nil && none.smallest == nil && none.largest == nil)
      #expect(none.nonFinite == nothing.count)
    }
    // Sums in float64: in float32 the ones would be lost beside the first element.
    let many = TensorStatistics([Float(1 << 25)] + [Float](repeating: 1, count: 1 << 20))
    #expect(many.mean == Double((1 << 25) + (1 << 20)) / Double((1 << 20) + 1))
  }

  @Test func aTensorOfAFileIsRead() throws {
    let folder = NSTemporaryDirectory() + "statistics-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = folder + "/a.safetensors"
    try SafetensorsWriter.write(
      [TensorItem(name: "w", shape: [2, 2], floats: [1, 2, 3, 4])], metadata: [:], to: path)
    let file = try Checkpoint.open(path)
    #expect(try file.statistics(of: "w") == TensorStatistics([1, 2, 3, 4]))
    #expect(throws: (any Error).self) { try file.statistics(of: "x") }
  }
}
