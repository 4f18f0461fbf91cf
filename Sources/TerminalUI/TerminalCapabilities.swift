/// What the terminal reports that it can do, and how images are drawn in it.
package struct TerminalCapabilities: Equatable, Sendable {
  /// Whether it answered at all.
  package var answered = false
  /// Whether it reported sixel graphics (attribute 4 of DA1).
  package var sixel = false
  /// Sixel colour registers; nil if it did not say.
  package var colorRegisters: Int?
  /// The largest sixel image in pixels; nil if it did not say.
  package var largestImage: PixelSize?
  /// Whether it draws a frame at once when asked (private mode 2026).
  package var synchronizedUpdates = false
  /// One cell in pixels as the terminal reported it; nil if it did not say.
  package var reportedCell: PixelSize?
  /// Colours of text; 0 for none.
  package var colors = 0
  /// How images are drawn; never `auto`.
  package var graphics = GraphicsMode.none

  /// Makes capabilities of a terminal that has said nothing.
  package init() {}

  /// Takes one answer in.
  package mutating func note(_ reply: TerminalReply) {
    switch reply {
    case .deviceAttributes(let attributes):
      answered = true
      sixel = attributes.contains(4)
    case .cellSize(let size):
      if size.isCell { reportedCell = size }
    case .graphics(item: 1, status: 0, let values):
      if let count = values.first, count > 1 { colorRegisters = count }
    case .graphics(item: 2, status: 0, let values):
      if values.count == 2, values[0] > 0, values[1] > 0 {
        let limit = SixelEncoder.largestSide
        largestImage = PixelSize(min(values[0], limit), min(values[1], limit))
      }
    case .mode(number: 2026, let state): synchronizedUpdates = (1...3).contains(state)
    default: break
    }
  }

  /// Chooses how images are drawn.
  package mutating func choose(_ wanted: GraphicsMode) {
    graphics = wanted != .auto ? wanted : sixel ? .sixel : .blocks
  }

  /// Colours to encode a sixel image with.
  package var sixelColors: Int { min(256, colorRegisters ?? 256) }

  /// One cell in pixels: from the window's size, else as reported, else 10 x 20.
  ///
  /// A report that disagrees with the window's size wins: some multiplexers make the latter up.
  package func cell(_ size: Size) -> PixelSize {
    if let reportedCell { return reportedCell }
    if let cell = size.cell, cell.isCell { return cell }
    if let largestImage, size.columns > 0, size.rows > 0 {
      let guess = PixelSize(largestImage.width / size.columns, largestImage.height / size.rows)
      // The geometry is the text area's in some terminals and a fixed limit in others.
      if (4...40).contains(guess.width), (guess.width...(guess.width * 3)).contains(guess.height) {
        return guess
      }
    }
    return PixelSize(10, 20)
  }
}
