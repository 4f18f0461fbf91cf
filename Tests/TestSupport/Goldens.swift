import Foundation
import TensorCore

/// A reader for the reference files, enough for tests: trusted safetensors files.
package struct Goldens {
  private let content: Data
  private let header: [String: Any]
  private let start: Int

  package static var directory: String {
    ProcessInfo.processInfo.environment["ESPALIER_GOLDENS"]
      ?? URL(filePath: #filePath).appending(path: "../../../../shared/goldens").standardized.path
  }

  /// Whether the reference files are there; tests that need them are skipped if not.
  package static var areAvailable: Bool {
    FileManager.default.fileExists(atPath: directory + "/MANIFEST.json")
  }

  package init(_ name: String) throws {
    content = try Data(contentsOf: URL(filePath: "\(Self.directory)/\(name).safetensors"))
    let size = content.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
    let json = try JSONSerialization.jsonObject(with: content[8..<(8 + size)])
    header = json as? [String: Any] ?? [:]
    start = 8 + size
  }

  private func entry<T: BitwiseCopyable>(
    _ name: String, as type: T.Type
  ) throws -> ([T], shape: [Int]) {
    guard let entry = header[name] as? [String: Any], let shape = entry["shape"] as? [Int],
      let range = entry["data_offsets"] as? [Int]
    else { throw MissingTensor(name: name) }
    let bytes = [UInt8](content[(start + range[0])..<(start + range[1])])
    return (
      bytes.withUnsafeBytes { raw in
        (0..<(bytes.count / MemoryLayout<T>.size)).map {
          raw.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.size, as: T.self)
        }
      }, shape
    )
  }

  package func tensor(_ name: String) throws -> Tensor {
    let (values, shape) = try entry(name, as: Float.self)
    return Tensor(values, shape: shape)
  }

  package func doubles(_ name: String) throws -> [Double] { try entry(name, as: Double.self).0 }

  package func integers(_ name: String) throws -> [Int] {
    try entry(name, as: Int64.self).0.map { Int($0) }
  }
}

/// Largest difference relative to the largest expected magnitude.
package func relativeError(_ found: [Float], _ expected: [Float]) -> Double {
  guard found.count == expected.count else { return .infinity }
  var difference = 0.0
  var largest = 0.0
  for (a, b) in zip(found, expected) {
    if !(a.isFinite && b.isFinite) { return .infinity }
    difference = max(difference, abs(Double(a) - Double(b)))
    largest = max(largest, abs(Double(b)))
  }
  return difference == 0 ? 0 : difference / largest
}

/// A reference file lacks a tensor.
package struct MissingTensor: Error { let name: String }
