import ArgumentParser
import Datasets
import Files
import Foundation
import Pictures

/// `espalier shapes`: writes images of the procedural source.
struct ShapesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "shapes",
    abstract: "Write procedural images: raw RGB8 (64x64x3 each), or a PNG contact sheet.")

  @Option(help: "Number of images; labels are index mod 10.")
  var count = 1000

  @Option(help: "Seed of the source.")
  var seed: UInt64 = 0

  @Option(help: "Output file; a name ending in .png writes a contact sheet, one column per class.")
  var output: String

  func validate() throws {
    guard (1...1_000_000).contains(count) else {
      throw ValidationError("--count is \(count); give 1 to 1000000")
    }
  }

  func run() throws {
    try AtomicFile.requireDestination(output)
    let source = ShapeSource(seed: seed)
    if output.hasSuffix(".png") {
      let images = (0..<count).map {
        RGBImage(
          width: ShapeSource.side, height: ShapeSource.side,
          pixels: source.image(index: $0).pixels)
      }
      try RGBImage.grid(images, columns: ShapeSource.numClasses, gap: 2).write(to: output)
    } else {
      var data = Data(capacity: count * 3 * ShapeSource.side * ShapeSource.side)
      for index in 0..<count { data.append(contentsOf: source.image(index: index).pixels) }
      try AtomicFile.write(data, to: output)
    }
  }
}
