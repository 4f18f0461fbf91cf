import Foundation

/// How the numbers of an evaluation were obtained.
package struct Provenance: Codable, Equatable, Sendable {
  /// A set of images or features, or a model that draws one.
  package struct Source: Codable, Equatable, Sendable {
    package var path: String
    /// SHA-256 of the content.
    package var digest: String
    /// Number of images; 0 for statistics alone.
    package var count: Int
    /// What the program that wrote or drew the set says about it.
    package var description: [String: String]?

    package init(path: String, digest: String, count: Int, description: [String: String]? = nil) {
      (self.path, self.digest, self.count) = (path, digest, count)
      self.description = description.map { $0.mapValues { Statement($0).text } }
    }

    private enum CodingKeys: CodingKey { case path, digest, count, description }

    package init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      path = try container.decode(String.self, forKey: .path)
      digest = try container.decode(String.self, forKey: .digest)
      count = try container.decode(Int.self, forKey: .count)
      description = try container.decodeIfPresent([String: Statement].self, forKey: .description)?
        .mapValues(\.text)
    }

    package func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(path, forKey: .path)
      try container.encode(digest, forKey: .digest)
      try container.encode(count, forKey: .count)
      try container.encodeIfPresent(description?.mapValues(Statement.init), forKey: .description)
    }
  }

  /// A statement about a set, which is a number in JSON if it is one.
  private enum Statement: Codable {
    case whole(UInt64)
    case number(Double)
    case text(String)

    init(_ text: String) {
      if let whole = UInt64(text), text == "\(whole)" {
        self = .whole(whole)
      } else if text.contains("."), let number = Double(text), number.isFinite {
        self = UInt64(exactly: number).map { .whole($0) } ?? .number(number)
      } else {
        self = .text(text)
      }
    }

    var text: String {
      switch self {
      case .whole(let whole): "\(whole)"
      case .number(let number): "\(number)"
      case .text(let text): text
      }
    }

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let text = try? container.decode(String.self) {
        self.init(text)
      } else if let whole = try? container.decode(UInt64.self) {
        self = .whole(whole)
      } else {
        self = .number(try container.decode(Double.self))
      }
    }

    func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      switch self {
      case .whole(let whole): try container.encode(whole)
      case .number(let number): try container.encode(number)
      case .text(let text): try container.encode(text)
      }
    }
  }

  package var samples: Source
  package var reference: Source?
  /// The feature network: its name and the digest of its weights.
  package var network: String
  package var networkDigest: String?
  /// How images are scaled to the size of the network.
  package var resize: String?
  /// Restrictions on the numbers, in sentences.
  package var notes: [String] = []
  /// Version of the program.
  package var version: String

  package init(
    samples: Source, reference: Source? = nil, network: String, networkDigest: String? = nil,
    resize: String? = nil, version: String
  ) {
    (self.samples, self.reference, self.version) = (samples, reference, version)
    (self.network, self.networkDigest, self.resize) = (network, networkDigest, resize)
  }

  /// Keys and values of all statements, in a fixed order.
  package var entries: [(key: String, value: String)] {
    var rows: [(key: String, value: String)] = []
    let sources: [(String, Source?)] = [("samples", samples), ("reference", reference)]
    for (name, source) in sources {
      guard let source else { continue }
      rows.append((name, source.path))
      rows.append(("\(name) sha256", String(source.digest.prefix(16))))
      if source.count > 0 { rows.append(("\(name) count", "\(source.count)")) }
      for (key, value) in (source.description ?? [:]).sorted(by: { $0.key < $1.key })
      where !["count", "set_digest"].contains(key) {
        rows.append(
          (
            "\(name) \(key.replacing("_", with: " "))",
            key.hasSuffix("_digest") ? String(value.prefix(16)) : value
          ))
      }
    }
    rows.append(("network", network))
    if let networkDigest { rows.append(("network sha256", String(networkDigest.prefix(16)))) }
    if let resize { rows.append(("resize", resize)) }
    rows.append(("program", "espalier \(version)"))
    return rows
  }

  /// What must be the same in two evaluations for their numbers to be compared, by key.
  package var conditions: [String: String] {
    let known = Dictionary(entries, uniquingKeysWith: { first, _ in first })
    var keys = [
      "samples count", "reference sha256", "network sha256", "resize", "samples classes",
      "samples labels", "samples precision", "samples autoencoder precision",
      "samples weights average",
      "samples size",
    ]
    for key in [
      "sampler", "steps", "guidance", "eta", "guided channels", "guidance interval", "time shift",
      "diffusion", "last step", "step cache",
    ] {
      keys += ["samples \(key)", "reference \(key)"]
    }
    var found = Dictionary(uniqueKeysWithValues: keys.map { ($0, known[$0] ?? "not stated") })
    found["network"] = networkDigest == nil ? network : nil
    // Which stage trained a graft is what its evaluation is to tell, and stage 1 has no averages.
    let key = "samples weights average"
    if ["operators", "EMA of the finetuning"].contains(where: found[key, default: ""].hasPrefix) {
      found[key] = "as the graft's training leaves them"
    }
    return found
  }
}

/// Numbers of an evaluation with how they were obtained.
package struct EvaluationReport: Sendable {
  package enum Numbers: Sendable {
    /// Of a set of images, or of features.
    case set(SetEvaluation)
    /// Of a model against its teacher, from the same noise.
    case paired(PairedDistance)
    /// Of a model of the procedural images, by the judge.
    case judged(Evaluation)

    fileprivate var name: String {
      switch self {
      case .set: "set"
      case .paired: "paired"
      case .judged: "judged"
      }
    }
  }

  package var numbers: Numbers
  package var provenance: Provenance

  package init(_ numbers: Numbers, _ provenance: Provenance) {
    (self.numbers, self.provenance) = (numbers, provenance)
  }

  /// Whether two reports hold numbers of one kind.
  package func isOfOneKind(with other: EvaluationReport) -> Bool {
    numbers.name == other.numbers.name
  }
}

extension EvaluationReport: Codable {
  private enum CodingKeys: String, CodingKey { case kind, provenance }

  /// Reads the numbers beside `kind` and `provenance`.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    provenance = try container.decode(Provenance.self, forKey: .provenance)
    switch try container.decode(String.self, forKey: .kind) {
    case "set": numbers = .set(try SetEvaluation(from: decoder))
    case "paired": numbers = .paired(try PairedDistance(from: decoder))
    case "judged": numbers = .judged(try Evaluation(from: decoder))
    case let other:
      throw DecodingError.dataCorruptedError(
        forKey: .kind, in: container, debugDescription: "unknown kind \(other)")
    }
  }

  /// Writes the numbers beside `kind` and `provenance`.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(numbers.name, forKey: .kind)
    try container.encode(provenance, forKey: .provenance)
    switch numbers {
    case .set(let set): try set.encode(to: encoder)
    case .paired(let paired): try paired.encode(to: encoder)
    case .judged(let judged): try judged.encode(to: encoder)
    }
  }
}
