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

  private var isSheet: Bool { output.hasSuffix(".png") }

  func validate() throws {
    let most = isSheet ? 10_000 : 1_000_000
    guard (1...most).contains(count) else {
      throw ValidationError(
        "--count is \(count); give 1 to \(most) for \(isSheet ? "a contact sheet" : "raw images")")
    }
  }

  func run() throws {
    try AtomicFile.requireDestination(output)
    let source = ShapeSource(seed: seed)
    if isSheet {
      let images = (0..<count).map {
        RGBImage(
          width: ShapeSource.side, height: ShapeSource.side,
          pixels: source.image(index: $0).pixels)
      }
      try RGBImage.grid(images, columns: ShapeSource.numClasses, gap: 2).write(to: output)
    } else {
      try AtomicFile.stream(to: output) { sink throws(FileError) in
        for index in 0..<count { try sink.append(source.image(index: index).pixels) }
      }
    }
  }
}
