import CNcurses
import Glibc

/// The one place that calls curses: cells in, bytes to the terminal out.
///
/// Curses keeps global state, so there is one screen a process, used on one thread.
package final class CursesScreen {
  private let screen: UnsafeMutableRawPointer
  private let output: UnsafeMutablePointer<FILE>
  private let input: UnsafeMutablePointer<FILE>
  /// The colours that styles are mapped to.
  let palette: Palette
  private let pairLimit: Int
  private var pairs: [Int: Int32] = [:]
  private var nextPair = CursesScreen.reservedPairs + 1

  /// Takes the terminal over; nil if curses refuses it.
  ///
  /// - Parameters:
  ///   - term: A terminal type that `find` has found.
  ///   - descriptor: The open terminal; duplicated.
  ///   - size: The terminal's size.
  ///   - useColors: False keeps every cell in the default colours.
  package init?(term: String, descriptor: Int32, size: Size, useColors: Bool) {
    let outputDescriptor = dup(descriptor)
    let inputDescriptor = dup(descriptor)
    guard let output = fdopen(outputDescriptor, "w"), let input = fdopen(inputDescriptor, "r")
    else { return nil }
    guard
      let screen = nc_open(
        term, output, input, Int32(size.rows), Int32(size.columns))
    else {
      fclose(output)
      fclose(input)
      return nil
    }
    self.screen = screen
    self.output = output
    self.input = input
    let colors = Int(nc_colors())
    palette = Palette(
      colors: useColors
        ? (nc_has_direct_color() != 0 && colors >= 1 << 24 ? 1 << 24 : min(colors, 256)) : 0)
    pairLimit = Int(nc_color_pairs())
    setPage(.default)
  }

  /// Chooses the background of cells under images; curses writes them again.
  func setPage(_ color: Color) {
    guard hasReservedPairs else { return }
    // Curses takes pairs of the same colours for the same: these differ in the foreground, which no space shows.
    for pair in 1...Self.reservedPairs {
      nc_define_pair(Int32(pair), Int32(pair - 1), Int32(palette.number(of: color)))
    }
  }

  /// Writes the cells that differ from `before`, or all of them, into curses' own picture.
  ///
  /// Where lines have moved, curses scrolls a part of the terminal regardless of `idlok`, and the pixels of images
  /// would scroll too. A line that changes alone has not moved: its old content is still where it was.
  /// - Parameters:
  ///   - cells: The screen, row by row.
  ///   - before: What it was; nil if that is not known.
  ///   - columns: Cells of a row.
  ///   - keepsPixels: Sends every row by itself.
  package func put(
    _ cells: [ScreenCell], before: [ScreenCell]?, columns: Int, keepsPixels: Bool = false
  ) {
    guard let before, before.count == cells.count else {
      nc_erase()
      for index in cells.indices where cells[index] != ScreenCell() {
        put(cells[index], row: index / columns, column: index % columns)
      }
      return
    }
    for start in stride(from: 0, to: cells.count, by: max(1, columns)) {
      let changed = (start..<(start + columns)).filter { cells[$0] != before[$0] }
      for index in changed { put(cells[index], row: index / columns, column: index % columns) }
      if keepsPixels, !changed.isEmpty { nc_send() }
    }
  }

  /// Sends what changed to the terminal and shows the cursor at a cell, or hides it.
  package func update(cursor: Frame.Position?) {
    nc_update(Int32(cursor?.row ?? -1), Int32(cursor?.column ?? 0))
  }

  /// Makes the next update clear the terminal and send everything.
  func clearOnUpdate() { nc_clear_on_update() }

  /// Takes the terminal's new size.
  package func resize(_ size: Size) { nc_resize(Int32(size.rows), Int32(size.columns)) }

  /// Blanks the screen, images included, and gives the terminal back for a while.
  func leave() {
    nc_erase()
    update(cursor: nil)
    nc_leave()
  }

  /// Takes the terminal back after `leave`; the next update draws everything.
  func enter() {
    nc_restore_modes()
    clearOnUpdate()
  }

  /// Gives the terminal back for good.
  package func close() {
    nc_erase()
    update(cursor: nil)
    nc_close(screen)
    fclose(output)
    fclose(input)
  }

  // MARK: - Cells

  /// Colour pairs 1 to 8 are for the cells under images.
  private static let reservedPairs = 8
  private var hasReservedPairs: Bool { pairLimit > Self.reservedPairs }

  /// A look that does not show on a space, for each of `ImageLayer.reservedLooks` numbers from 1.
  private func reservedLook(_ number: Int) -> (attributes: Int32, pair: Int32) {
    if hasReservedPairs {
      let pairs = Self.reservedPairs
      return (number > pairs ? Int32(NC_BOLD) : 0, Int32((number - 1) % pairs + 1))
    }
    return ([NC_BOLD, NC_DIM, NC_BOLD | NC_DIM].map { Int32($0) }[number % 3], 0)
  }

  private func put(_ cell: ScreenCell, row: Int, column: Int) {
    guard cell.character != Cell.continuation else { return }
    var text = cell.character.unicodeScalars.map { wchar_t(bitPattern: $0.value) }
    text.append(0)
    if cell.reserved > 0 {
      let look = reservedLook(cell.reserved)
      nc_put(Int32(row), Int32(column), text, look.attributes, look.pair)
      return
    }
    let style = cell.style
    var attributes: Int32 = 0
    // Terminals with eight colours show the other eight as bold ones.
    let isBright =
      if palette.colors == 8, case .index(8..<16) = style.foreground { true } else { false }
    if style.bold || isBright { attributes |= Int32(NC_BOLD) }
    if style.dim || style.foreground == .gray && palette.colors < 16 {
      attributes |= Int32(NC_DIM)
    }
    if style.underline { attributes |= Int32(NC_UNDERLINE) }
    // Without colours a background is still a mark: it is shown by reversing.
    if style.reverse != (palette.colors == 0 && style.background != .default) {
      attributes |= Int32(NC_REVERSE)
    }
    nc_put(
      Int32(row), Int32(column), text, attributes,
      pair(palette.number(of: style.foreground), palette.number(of: style.background)))
  }

  /// The curses pair of two colours; when all are used, allocation starts over.
  private func pair(_ foreground: Int, _ background: Int) -> Int32 {
    if foreground == -1 && background == -1 { return 0 }
    let key = (foreground + 1) << 32 | (background + 1)
    if let known = pairs[key] { return known }
    guard hasReservedPairs else { return 0 }
    if nextPair >= pairLimit {
      // Curses redraws the cells of a pair whose colours change, so the screen stays true; only cells that
      // keep an old pair may show a wrong colour until they change.
      pairs = [:]
      nextPair = Self.reservedPairs + 1
      needsRedraw = true
    }
    let pair = Int32(nextPair)
    nextPair += 1
    nc_define_pair(pair, Int32(foreground), Int32(background))
    pairs[key] = pair
    return pair
  }

  /// Set when the allocation of pairs started over: every cell has to be put again.
  private(set) var needsRedraw = false

  /// Clears `needsRedraw` and says what it was.
  func takeRedraw() -> Bool {
    defer { needsRedraw = false }
    return needsRedraw
  }
}

extension CursesScreen {
  /// Whether terminfo knows a terminal type: 1, 0 for no, -1 without a terminfo database.
  static func find(term: String, descriptor: Int32) -> Int32 { nc_find_terminal(term, descriptor) }

  /// A string capability of the terminal that was found last.
  static func capability(_ name: String) -> String? {
    nc_capability(name).map { String(cString: $0) }
  }

  /// Keeps the terminal's present modes as those to come back to.
  static func keepModes() { nc_keep_modes() }

  /// Chooses the character locale, the environment's if that is UTF-8, else C.UTF-8, and returns the encoding that the
  /// environment names.
  static func setLocale() -> String { String(cString: nc_set_locale()) }
}
