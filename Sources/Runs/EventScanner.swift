import Files
import Foundation
import Plans

/// Reads the lines of event logs, which may be millions: one pass over the bytes, and nothing is allocated
/// but what an event consists of.
///
/// A line that is no event of this version, or holds a number beyond the ranges of `FileNumber`, gives
/// none.
struct EventScanner {
  /// Whether the training losses of sites are wanted; without them, steps are read several times as fast.
  let readsSites: Bool
  /// Sites in the order in which they were last named, which the next line mostly repeats.
  private var sites: [(name: [UInt8], site: GraftSite)] = []

  /// Sites of an event beyond which it counts as damaged.
  private static let siteLimit = 4096
  /// Characters of a text that are kept.
  private static let textLimit = 4096

  init(readsSites: Bool) { self.readsSites = readsSites }

  /// The event of a line, which comes without its line end.
  mutating func event(in line: UnsafeRawBufferPointer) -> Event? {
    guard let fields = Fields(line), fields.number(.version) == Double(Event.formatVersion),
      let time = fields.number(.time, in: FileNumber.times),
      let kind = kind(fields)
    else { return nil }
    return Event(kind, time: time)
  }

  private mutating func kind(_ fields: Fields) -> EventKind? {
    if fields.text(.kind, is: "step") { return step(fields) }
    if fields.text(.kind, is: "heartbeat") {
      return fields.count(.step).map { .heartbeat(step: $0) }
    }
    switch fields.text(.kind) {
    case "held_out":
      guard let step = fields.count(.step), let losses = losses(fields, .losses) else { return nil }
      return .heldOut(step: step, loss: fields.number(.loss), losses: losses)
    case "progress":
      guard let done = fields.count(.done), let total = fields.count(.total),
        let label = text(fields, .label)
      else { return nil }
      return .progress(done: done, total: total, label: label)
    case "started":
      guard let pid = fields.count(.pid).flatMap({ Int32(exactly: $0) }),
        let total = fields.count(.totalSteps)
      else { return nil }
      return .started(pid: pid, totalSteps: total)
    case "checkpointed":
      guard let step = fields.count(.step), let path = path(fields) else { return nil }
      return .checkpointed(step: step, path: path)
    case "paused":
      return fields.count(.step).map { .paused(step: $0, reason: text(fields, .reason)) }
    case "resumed": return fields.count(.step).map { .resumed(step: $0) }
    case "sampled":
      guard let role = fields.text(.role).flatMap(SampleRole.init(rawValue:)),
        let path = path(fields), let label = fields.count(.classLabel), let seed = fields.seed
      else { return nil }
      return .sampled(role: role, path: path, classLabel: label, seed: seed)
    case "message": return text(fields, .text).map { .message($0) }
    case "finished":
      guard let outcome = fields.text(.outcome).flatMap(RunOutcome.init(rawValue:)),
        let text = text(fields, .text)
      else { return nil }
      return .finished(outcome: outcome, text: text)
    default: return nil
    }
  }

  private mutating func step(_ fields: Fields) -> EventKind? {
    guard let step = fields.count(.step), let total = fields.count(.total),
      let loss = fields.number(.loss), fields.has(.losses),
      let rate = fields.number(.rate, in: FileNumber.rates),
      let secondsLeft = fields.number(.secondsLeft, in: FileNumber.spans)
    else { return nil }
    var event: (losses: [GraftSite: Double], rate: LearningRate?) = ([:], nil)
    if readsSites {
      guard let losses = losses(fields, .losses) else { return nil }
      event.losses = losses
      if let highest = fields.number(.learningRate) {
        guard let rates = fields.has(.learningRates) ? self.losses(fields, .learningRates) : [:]
        else {
          return nil
        }
        event.rate = LearningRate(highest: highest, sites: rates)
      }
    }
    return .step(
      step: step, total: total, loss: loss, losses: event.losses, rate: rate,
      secondsLeft: secondsLeft, learningRate: event.rate)
  }

  private func text(_ fields: Fields, _ key: Fields.Key) -> String? {
    fields.text(key).map { $0.count > Self.textLimit ? "\($0.prefix(Self.textLimit))…" : $0 }
  }

  /// A path within the run directory.
  private func path(_ fields: Fields) -> String? {
    guard let path = text(fields, .path), !path.isEmpty, !path.hasPrefix("/"),
      !path.split(separator: "/").contains("..")
    else { return nil }
    return path
  }

  /// An object from sites to numbers.
  private mutating func losses(_ fields: Fields, _ key: Fields.Key) -> [GraftSite: Double]? {
    guard var cursor = fields.object(key) else { return nil }
    var values: [GraftSite: Double] = [:]
    var index = 0
    let isWhole = cursor.members { cursor, name in
      guard index < Self.siteLimit, let site = site(name, at: index),
        let number = cursor.number()
      else { return false }
      values[site] = number
      index += 1
      return true
    }
    return isWhole ? values : nil
  }

  private mutating func site(_ name: UnsafeRawBufferPointer, at index: Int) -> GraftSite? {
    if index < sites.count, name.elementsEqual(sites[index].name) { return sites[index].site }
    guard let site = GraftSite(String(decoding: name, as: UTF8.self)) else { return nil }
    if index < sites.count {
      sites[index] = (Array(name), site)
    } else {
      sites.append((Array(name), site))
    }
    return site
  }
}

/// Where the values of one line lie.
private struct Fields {
  enum Key: Int, CaseIterable {
    case version, time, kind, step, total, done, loss, losses, rate, secondsLeft, learningRate
    case learningRates, totalSteps, pid, path, label, role, seed, classLabel, text, outcome, reason

    /// The name in the file.
    var name: StaticString {
      switch self {
      case .version: "v"
      case .time: "t"
      case .kind: "kind"
      case .step: "step"
      case .total: "total"
      case .done: "done"
      case .loss: "loss"
      case .losses: "losses"
      case .rate: "rate"
      case .secondsLeft: "seconds_left"
      case .learningRate: "learning_rate"
      case .learningRates: "learning_rates"
      case .totalSteps: "total_steps"
      case .pid: "pid"
      case .path: "path"
      case .label: "label"
      case .role: "role"
      case .seed: "seed"
      case .classLabel: "class_label"
      case .text: "text"
      case .outcome: "outcome"
      case .reason: "reason"
      }
    }
  }

  private static let names = Key.allCases.map(\.name)

  private let line: UnsafeRawBufferPointer
  /// By key: where its value begins; -1 where it is missing.
  private var starts = InlineArray<22, Int32>(repeating: -1)

  /// Finds the values of a JSON object; nil where the line is none.
  init?(_ line: UnsafeRawBufferPointer) {
    self.line = line
    var cursor = Cursor(line)
    let isWhole = cursor.members { cursor, name in
      for index in Self.names.indices where name.matches(Self.names[index]) {
        starts[index] = Int32(cursor.position)
        break
      }
      return cursor.skipValue()
    }
    guard isWhole, cursor.isAtEnd else { return nil }
  }

  func has(_ key: Key) -> Bool { starts[key.rawValue] >= 0 }

  private func cursor(_ key: Key) -> Cursor? {
    let start = starts[key.rawValue]
    return start >= 0 ? Cursor(line, at: Int(start)) : nil
  }

  /// A number; those that JSON lacks are texts.
  func number(_ key: Key) -> Double? {
    guard var cursor = cursor(key) else { return nil }
    return cursor.number()
  }

  func number(_ key: Key, in range: ClosedRange<Double>) -> Double? {
    number(key).flatMap { range.contains($0) ? $0 : nil }
  }

  func count(_ key: Key) -> Int? {
    number(key).flatMap { Int(exactly: $0) }.flatMap { FileNumber.counts.contains($0) ? $0 : nil }
  }

  /// Any 64 bits, which a `Double` does not hold.
  var seed: UInt64? {
    guard var cursor = cursor(.seed), let digits = cursor.digits() else { return nil }
    return UInt64(String(decoding: digits, as: UTF8.self))
  }

  func text(_ key: Key) -> String? {
    guard var cursor = cursor(key), let span = cursor.string() else { return nil }
    guard span.contains(UInt8(ascii: "\\")) else { return String(validating: span, as: UTF8.self) }
    var scanner = JSONScanner(
      UnsafeRawBufferPointer(rebasing: line[Int(starts[key.rawValue])...]))
    return try? scanner.string("a text")
  }

  func text(_ key: Key, is word: StaticString) -> Bool {
    guard var cursor = cursor(key), let span = cursor.string() else { return false }
    return span.matches(word)
  }

  func object(_ key: Key) -> Cursor? { cursor(key) }
}

/// A position in a line of JSON; white space between tokens is accepted.
private struct Cursor {
  private let line: UnsafeRawBufferPointer
  private(set) var position: Int

  /// Levels of nested values beyond which a line is refused.
  private static let depthLimit = 16

  init(_ line: UnsafeRawBufferPointer, at position: Int = 0) {
    (self.line, self.position) = (line, position)
  }

  var isAtEnd: Bool {
    mutating get {
      skipSpace()
      return position == line.count
    }
  }

  /// Calls `body` with the name of each member, with the cursor on its value, which it moves behind that.
  ///
  /// - Returns: Whether all of it was an object and `body` always said yes.
  mutating func members(_ body: (inout Cursor, UnsafeRawBufferPointer) -> Bool) -> Bool {
    guard take("{") else { return false }
    if take("}") { return true }
    repeat {
      skipSpace()
      guard let name = string(), take(":") else { return false }
      skipSpace()
      guard body(&self, name) else { return false }
    } while take(",")
    return take("}")
  }

  /// The raw bytes of a string, with its escapes.
  mutating func string() -> UnsafeRawBufferPointer? {
    guard position < line.count, line[position] == UInt8(ascii: "\"") else { return nil }
    position += 1
    let start = position
    while position < line.count {
      switch line[position] {
      case UInt8(ascii: "\""):
        position += 1
        return UnsafeRawBufferPointer(rebasing: line[start..<position - 1])
      case UInt8(ascii: "\\"): position += 2
      case 0..<0x20: return nil
      default: position += 1
      }
    }
    return nil
  }

  /// The bytes of a number.
  mutating func digits() -> UnsafeRawBufferPointer? {
    let start = position
    while position < line.count {
      switch line[position] {
      case 0x30...0x39, UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."), UInt8(ascii: "e"),
        UInt8(ascii: "E"):
        position += 1
        continue
      default: break
      }
      break
    }
    return position > start ? UnsafeRawBufferPointer(rebasing: line[start..<position]) : nil
  }

  /// A number, or one of the texts `nan`, `inf` and `-inf`.
  mutating func number() -> Double? {
    if let span = string() {
      if span.matches("nan") { return .nan }
      if span.matches("inf") { return .infinity }
      return span.matches("-inf") ? -.infinity : nil
    }
    guard let span = digits() else { return nil }
    // Short decimal fractions, exactly: both factors are whole numbers that a Double holds.
    var mantissa = 0
    var decimals = -1
    var isShort = span.count <= 16
    for byte in span where isShort {
      switch byte {
      case 0x30...0x39:
        mantissa = 10 * mantissa + Int(byte - 0x30)
        if decimals >= 0 { decimals += 1 }
      case UInt8(ascii: ".") where decimals < 0: decimals = 0
      default: isShort = false
      }
    }
    if isShort, mantissa < 1 << 53, decimals != 0, span[0] != UInt8(ascii: ".") {
      return decimals < 0 ? Double(mantissa) : Double(mantissa) / Self.powers[decimals]
    }
    return Double(String(decoding: span, as: UTF8.self)).flatMap { $0.isFinite ? $0 : nil }
  }

  private static let powers: [Double] = (0...16).map { pow(10, Double($0)) }

  /// Moves behind a value of any kind.
  mutating func skipValue() -> Bool {
    var depth = 0
    while position < line.count {
      switch line[position] {
      case UInt8(ascii: "\""): guard string() != nil else { return false }
      case UInt8(ascii: "{"), UInt8(ascii: "["):
        depth += 1
        position += 1
        guard depth <= Self.depthLimit else { return false }
      case UInt8(ascii: "}"), UInt8(ascii: "]"):
        depth -= 1
        position += 1
        guard depth >= 0 else { return false }
      case UInt8(ascii: ","), UInt8(ascii: ":"), 0x20, 0x09:
        guard depth > 0 else { return false }
        position += 1
      default:
        let start = position
        while position < line.count, line[position].isWordByte { position += 1 }
        guard position > start else { return false }
      }
      if depth == 0 { return true }
    }
    return false
  }

  private mutating func skipSpace() {
    while position < line.count,
      line[position] == 0x20 || line[position] == 0x09 || line[position] == 0x0D
    {
      position += 1
    }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    skipSpace()
    guard position < line.count, line[position] == UInt8(ascii: character) else { return false }
    position += 1
    return true
  }
}

extension UInt8 {
  /// Whether it belongs to a number or to `true`, `false` or `null`.
  fileprivate var isWordByte: Bool {
    switch self {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "+"),
      UInt8(ascii: "."):
      true
    default: false
    }
  }
}

extension UnsafeRawBufferPointer {
  fileprivate func matches(_ word: StaticString) -> Bool {
    guard count == word.utf8CodeUnitCount, let baseAddress else { return false }
    return memcmp(baseAddress, word.utf8Start, count) == 0
  }
}
