import Files
import Foundation
import Plans

/// Single-pass parser of event log lines that allocates only the events.
///
/// Lines that are not events of this version, or have a number outside the ranges of `FileNumber`,
/// return nil.
struct EventScanner {
  /// Whether the training losses of sites are read; steps parse several times faster without them.
  let readsSites: Bool
  /// Sites in the order of the last line, which is usually the order of the next.
  private var sites: [(name: [UInt8], site: GraftSite)] = []

  /// Maximum number of sites of an event.
  private static let siteLimit = 4096
  /// Maximum number of characters of a text; longer texts are truncated.
  private static let textLimit = 4096

  init(readsSites: Bool) { self.readsSites = readsSites }

  /// Parses a line without its line end.
  mutating func event(in line: UnsafeRawBufferPointer) -> Event? {
    guard let fields = Members(line), fields.number("v") == Double(Event.formatVersion),
      let time = fields.number("t", in: FileNumber.times), let kind = kind(fields)
    else { return nil }
    return Event(kind, time: time)
  }

  private mutating func kind(_ fields: Members) -> EventKind? {
    func path() -> String? {
      guard let path = fields.text("path"), !path.isEmpty, !path.hasPrefix("/") else { return nil }
      return path.split(separator: "/").contains("..") ? nil : path
    }
    func text(_ key: StaticString) -> String? {
      fields.text(key).map { $0.count > Self.textLimit ? "\($0.prefix(Self.textLimit))…" : $0 }
    }
    switch fields.text("kind") {
    case "step": return step(fields)
    case "heartbeat": return fields.count("step").map { .heartbeat(step: $0) }
    case "held_out":
      guard let step = fields.count("step"), let losses = numbers(fields, "losses") else {
        return nil
      }
      return .heldOut(step: step, loss: fields.number("loss"), losses: losses)
    case "progress":
      guard let done = fields.count("done"), let total = fields.count("total"),
        let label = text("label")
      else { return nil }
      return .progress(
        done: done, total: total, label: label,
        secondsLeft: fields.number("seconds_left", in: FileNumber.spans))
    case "started":
      guard let pid = fields.count("pid").flatMap({ Int32(exactly: $0) }),
        let total = fields.count("total_steps")
      else { return nil }
      return .started(pid: pid, totalSteps: total)
    case "checkpointed":
      guard let step = fields.count("step"), let path = path() else { return nil }
      return .checkpointed(step: step, path: path)
    case "paused": return fields.count("step").map { .paused(step: $0, reason: text("reason")) }
    case "resumed": return fields.count("step").map { .resumed(step: $0) }
    case "sampled":
      guard let role = fields.text("role").flatMap(SampleRole.init(rawValue:)), let path = path(),
        let label = fields.count("class_label"),
        let seed = fields.digits("seed").flatMap({ UInt64($0) })
      else { return nil }
      return .sampled(
        role: role, path: path, classLabel: label, seed: seed,
        samplerStep: fields.count("sampler_step"))
    case "message": return text("text").map { .message($0) }
    case "ranks":
      guard let count = fields.count("count"), let device = text("device"),
        let engine = text("engine"), let restarts = fields.count("restarts")
      else { return nil }
      return .ranks(RankReport(count: count, device: device, engine: engine, restarts: restarts))
    case "resources":
      guard let step = fields.count("step"), let memory = fields.count("memory") else { return nil }
      return .resources(
        step: step,
        RankResources(
          memory: memory, memoryByRank: fields.counts("memory_by_rank"),
          waitingByRank: fields.list("waiting_by_rank").map { min(max(0, $0), 1) },
          silent: fields.counts("silent")))
    case "finished":
      guard let outcome = fields.text("outcome").flatMap(RunOutcome.init(rawValue:)),
        let text = text("text")
      else { return nil }
      return .finished(outcome: outcome, text: text)
    default: return nil
    }
  }

  private mutating func step(_ fields: Members) -> EventKind? {
    guard let step = fields.count("step"), let total = fields.count("total"),
      let loss = fields.number("loss"), let rate = fields.number("rate", in: FileNumber.rates),
      let secondsLeft = fields.number("seconds_left", in: FileNumber.spans),
      let losses = readsSites ? numbers(fields, "losses") : [:]
    else { return nil }
    var learningRate: LearningRate?
    if readsSites, let highest = fields.number("learning_rate") {
      learningRate = LearningRate(highest: highest, sites: numbers(fields, "learning_rates") ?? [:])
    }
    var measures: [StepMeasure: Double] = [:]
    if readsSites {
      measures[.gradientNorm] = fields.number("gradient_norm")
      measures[.samplesPerSecond] = fields.number("samples_per_second")
      measures[.residentMemory] = fields.number("resident_memory")
    }
    return .step(
      step: step, total: total, loss: loss, losses: losses, rate: rate, secondsLeft: secondsLeft,
      learningRate: learningRate, measures: measures)
  }

  /// Reads an object of numbers by site.
  private mutating func numbers(_ fields: Members, _ key: StaticString) -> [GraftSite: Double]? {
    guard var cursor = fields.cursor(key) else { return nil }
    var values: [GraftSite: Double] = [:]
    var index = 0
    let isWhole = cursor.members { cursor, name in
      guard index < Self.siteLimit, let site = site(name, at: index), let number = cursor.number()
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
    sites.removeSubrange(min(index, sites.count)...)
    sites.append((Array(name), site))
    return site
  }
}

/// Members of the JSON object in a line, located once and parsed on demand.
private struct Members {
  private let line: UnsafeRawBufferPointer
  /// Offsets of the start and end of names, and of the start of values.
  private var places = InlineArray<24, (start: Int32, end: Int32, value: Int32)>(
    repeating: (0, 0, 0))
  private var count = 0

  /// Locates the members; nil if the line is not an object, or has more than 24 members.
  init?(_ line: UnsafeRawBufferPointer) {
    self.line = line
    var cursor = Cursor(line)
    let isWhole = cursor.members { cursor, name in
      guard count < 24, let base = line.baseAddress, let start = name.baseAddress else {
        return false
      }
      let offset = Int32(start - base)
      places[count] = (offset, offset + Int32(name.count), Int32(cursor.position))
      count += 1
      return cursor.skipValue()
    }
    guard isWhole, cursor.isAtEnd else { return nil }
  }

  /// Cursor at the value of a member; nil if it is missing.
  func cursor(_ key: StaticString) -> Cursor? {
    for index in 0..<count {
      let place = places[index]
      if Int(place.end - place.start) == key.utf8CodeUnitCount,
        let base = line.baseAddress,
        memcmp(base + Int(place.start), key.utf8Start, key.utf8CodeUnitCount) == 0
      {
        return Cursor(line, at: Int(place.value))
      }
    }
    return nil
  }

  func number(_ key: StaticString) -> Double? {
    guard var cursor = cursor(key) else { return nil }
    return cursor.number()
  }

  func number(_ key: StaticString, in range: ClosedRange<Double>) -> Double? {
    number(key).flatMap { range.contains($0) ? $0 : nil }
  }

  func count(_ key: StaticString) -> Int? {
    number(key).flatMap { Int(exactly: $0) }.flatMap { FileNumber.counts.contains($0) ? $0 : nil }
  }

  /// Numbers of a list; empty if it is missing or no list of finite numbers.
  func list(_ key: StaticString) -> [Double] {
    guard var cursor = cursor(key), let values = cursor.numbers() else { return [] }
    return values.allSatisfy(\.isFinite) ? values : []
  }

  func counts(_ key: StaticString) -> [Int] {
    let values = list(key).compactMap { Int(exactly: $0) }
    return values.allSatisfy(FileNumber.counts.contains) ? values : []
  }

  /// Text of a number.
  func digits(_ key: StaticString) -> String? {
    guard var cursor = cursor(key), let span = cursor.digits() else { return nil }
    return String(decoding: span, as: UTF8.self)
  }

  func text(_ key: StaticString) -> String? {
    guard let start = cursor(key) else { return nil }
    var cursor = start
    guard let span = cursor.string() else { return nil }
    guard span.contains(UInt8(ascii: "\\")) else { return String(validating: span, as: UTF8.self) }
    var scanner = JSONScanner(UnsafeRawBufferPointer(rebasing: line[start.position...]))
    return try? scanner.string("a text")
  }
}

/// A position in a line of JSON.
private struct Cursor {
  private let line: UnsafeRawBufferPointer
  private(set) var position: Int

  /// Maximum nesting depth of values.
  private static let depthLimit = 16
  private static let powers: [Double] = (0...16).map { pow(10, Double($0)) }

  init(_ line: UnsafeRawBufferPointer, at position: Int = 0) {
    (self.line, self.position) = (line, position)
  }

  /// Next byte that is not white space; 0 at the end.
  private var next: UInt8 {
    mutating get {
      while position < line.count, line[position] == 0x20 || line[position] == 0x09 {
        position += 1
      }
      return position < line.count ? line[position] : 0
    }
  }

  var isAtEnd: Bool {
    mutating get { next == 0 && position == line.count || next == 0x0D }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard next == UInt8(ascii: character) else { return false }
    position += 1
    return true
  }

  /// Calls `body` with the name of each member and the cursor at its value, which `body` consumes.
  ///
  /// - Returns: Whether the object is well formed and `body` always returned true.
  mutating func members(_ body: (inout Cursor, UnsafeRawBufferPointer) -> Bool) -> Bool {
    guard take("{") else { return false }
    if take("}") { return true }
    repeat {
      guard next != 0, let name = string(), take(":"), next != 0, body(&self, name) else {
        return false
      }
    } while take(",")
    return take("}")
  }

  /// Reads the raw bytes of a string, without resolving escapes.
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

  /// Reads the bytes of a number, or of a word such as `true`.
  mutating func digits() -> UnsafeRawBufferPointer? {
    let start = position
    while position < line.count {
      switch line[position] {
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "+"),
        UInt8(ascii: "."):
        position += 1
        continue
      default: break
      }
      break
    }
    return position > start ? UnsafeRawBufferPointer(rebasing: line[start..<position]) : nil
  }

  /// Reads a number, or one of the strings `nan`, `inf` and `-inf`.
  mutating func number() -> Double? {
    if let span = string() {
      switch String(decoding: span, as: UTF8.self) {
      case "nan": return .nan
      case "inf": return .infinity
      case "-inf": return -.infinity
      default: return nil
      }
    }
    guard let span = digits(), let first = span.first, first == 0x2D || 0x30...0x39 ~= first else {
      return nil
    }
    // Fast path: a short decimal fraction is the quotient of two integers that are exact in Double.
    var (mantissa, decimals) = (0, -1)
    for byte in span {
      if 0x30...0x39 ~= byte, mantissa < 1 << 49, decimals < 16 {
        mantissa = 10 * mantissa + Int(byte - 0x30)
        if decimals >= 0 { decimals += 1 }
      } else if byte == UInt8(ascii: "."), decimals < 0 {
        decimals = 0
      } else {
        let value = Double(String(decoding: span, as: UTF8.self))
        return value?.isFinite == true ? value : nil
      }
    }
    return decimals <= 0 ? Double(mantissa) : Double(mantissa) / Self.powers[decimals]
  }

  /// Maximum number of elements of a list.
  private static let listLimit = 65536

  /// Reads a list of numbers.
  mutating func numbers() -> [Double]? {
    guard take("[") else { return nil }
    if take("]") { return [] }
    var values: [Double] = []
    repeat {
      guard next != 0, values.count < Self.listLimit, let value = number() else { return nil }
      values.append(value)
    } while take(",")
    return take("]") ? values : nil
  }

  /// Skips a value of any type.
  mutating func skipValue() -> Bool {
    var depth = 0
    repeat {
      switch next {
      case UInt8(ascii: "\""): guard string() != nil else { return false }
      case UInt8(ascii: "{"), UInt8(ascii: "["): (depth, position) = (depth + 1, position + 1)
      case UInt8(ascii: "}"), UInt8(ascii: "]"): (depth, position) = (depth - 1, position + 1)
      case UInt8(ascii: ","), UInt8(ascii: ":"):
        guard depth > 0 else { return false }
        position += 1
      default: guard digits() != nil else { return false }
      }
      guard (0...Self.depthLimit).contains(depth) else { return false }
    } while depth > 0
    return true
  }
}
