import Files
import Pictures

/// Small pictures of a set, spread evenly over it, as far as they are drawn.
struct ContactSheet {
  /// Most pictures, pictures of a row, and the longer side of one in pixels.
  private static let (most, columns, side) = (64, 8, 96)
  private let step: Int
  private var pictures: [Int: RGBImage] = [:]
  /// Whether pictures were added since it was written.
  private(set) var hasNews = false

  /// Makes an empty sheet of a set of `count` images.
  init(count: Int) { step = max(1, (count + Self.most - 1) / Self.most) }

  /// Whether the image of an index is shown.
  func shows(_ index: Int) -> Bool { index % step == 0 }

  /// Adds the image of an index if it is shown.
  mutating func add(_ image: RGBImage, at index: Int) {
    guard shows(index) else { return }
    let scale = min(1, Double(Self.side) / Double(max(image.width, image.height)))
    let (width, height) = (
      max(1, Int(Double(image.width) * scale)), max(1, Int(Double(image.height) * scale))
    )
    pictures[index] =
      scale < 1 ? image.resampled(width: width, height: height, .box) : image
    hasNews = true
  }

  /// Writes the sheet.
  ///
  /// - Throws: `FileError` if the file cannot be written.
  mutating func write(to path: String) throws(FileError) {
    let shown = pictures.sorted { $0.key < $1.key }.map(\.value)
    try RGBImage.grid(shown, columns: min(Self.columns, shown.count), gap: 2).write(to: path)
    hasNews = false
  }
}
