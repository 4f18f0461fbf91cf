import Checkpoints
import Files
import Foundation
import Plans

/// Architecture stated by a file in the metadata key `config` or in `NAME.json` next to it; absent
/// values are inferred from the weights.
struct StatedShape: Codable {
  var family: String?
  var depth, hiddenSize, numHeads, patchSize, inputSize, inChannels, numClasses: Int?
  var learnSigma: Bool?
  var mlpRatio: Double?
  var hasNullClass: Bool?
  var frequencyShift: Int?
  var mlpNormEpsilon: Double?
  var rmsNorm, qkNorm, rotary, swiglu, mlpBias, blockShift, reversedTime: Bool?
  var classNames: [String]?
  var name: String?

  /// Makes an empty statement.
  init() {}

  /// Makes a complete statement; values of the official model are omitted.
  init(_ shape: ModelShape, classNames: [String], name: String) {
    family = shape.family.rawValue
    (depth, hiddenSize, numHeads) = (shape.depth, shape.hiddenSize, shape.numHeads)
    (patchSize, inputSize, inChannels) = (shape.patchSize, shape.inputSize, shape.inChannels)
    (numClasses, learnSigma, mlpRatio) = (shape.numClasses, shape.learnSigma, shape.mlpRatio)
    hasNullClass = shape.hasNullClass ? nil : false
    frequencyShift = shape.frequencyShift == 0 ? nil : shape.frequencyShift
    mlpNormEpsilon =
      shape.mlpNormEpsilon == ModelShape.officialEpsilon ? nil : shape.mlpNormEpsilon
    (rmsNorm, qkNorm) = (shape.rmsNorm ? true : nil, shape.queryKeyNorm ? true : nil)
    (rotary, swiglu) = (shape.rotary ? true : nil, shape.swiglu ? true : nil)
    (mlpBias, blockShift) = (shape.mlpBias ? nil : false, shape.blockShift ? nil : false)
    reversedTime = shape.reversedTime ? true : nil
    self.classNames = classNames.isEmpty ? nil : classNames
    self.name = name
  }

  /// Reads a metadata entry; nil for an entry of another program.
  ///
  /// - Throws: `FileError` for an entry of the wrong type, and a family that is not class-conditional.
  init?(_ text: String, file: String) throws(FileError) {
    guard let object = try? JSONSerialization.jsonObject(with: Data(text.utf8)),
      let table = object as? [String: Any],
      table.keys.contains(where: Self.keys.contains)
    else { return nil }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    do {
      self = try decoder.decode(Self.self, from: Data(text.utf8))
    } catch DecodingError.typeMismatch(_, let context), DecodingError.dataCorrupted(let context) {
      let key = context.codingPath.map(\.stringValue).joined(separator: ".")
      throw FileError(
        "\(file): config key '\(key)' in the metadata has the wrong type; correct it or remove it")
    } catch {
      throw FileError(
        "\(file): metadata key 'config' is not a DiT configuration; use a DiT model file")
    }
    let families = ModelFamily.allCases.filter { $0.condition == .classes }.map(\.rawValue)
    guard family.map(families.contains) ?? true else {
      throw FileError(
        "\(file): model family is '\((family ?? "").prefix(60))', expected"
          + " \(families.joined(separator: ", ")); use a model file of one")
    }
  }

  private static let keys = Set(ModelSchema.table.all.map(\.key) + ["class_names"])

  /// Adds values of the arguments of an official training, stored with its weights.
  mutating func add(arguments values: [String: PlainValue]) {
    if case .text(let name) = values["args.model"], let published = ModelShape(named: name) {
      numHeads = numHeads ?? published.numHeads
    }
    if case .integer(let side) = values["args.image_size"], (1...65536).contains(side) {
      inputSize = inputSize ?? side / ModelShape.pixelsPerLatent
    }
    if case .integer(let classes) = values["args.num_classes"] {
      numClasses = numClasses ?? classes
    }
  }

  /// The metadata entry.
  ///
  /// - Throws: Never in practice; encoding could.
  func json() throws -> String {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = .sortedKeys
    return String(decoding: try encoder.encode(self), as: UTF8.self)
  }
}
