import Foundation

/// A dense, contiguous, row-major float32 array.
///
/// Copies share their storage. Tensors are not Sendable: they live on the one numeric thread, and
/// only kernels go parallel inside.
package struct Tensor {
  package let storage: Storage
  package let shape: [Int]
  package let offset: Int

  /// Number of elements.
  package let count: Int

  /// First element.
  package var pointer: UnsafeMutablePointer<Float> {
    storage.pointer.assumingMemoryBound(to: Float.self) + offset
  }

  /// Makes a tensor of the given shape whose elements are not initialised.
  package init(_ shape: [Int]) {
    precondition(shape.allSatisfy { $0 >= 0 }, "Tensor: negative size in \(shape)")
    count = shape.reduce(1, *)
    storage = Storage(bytes: count * MemoryLayout<Float>.size)
    self.shape = shape
    offset = 0
  }

  /// Makes a tensor over existing storage.
  package init(storage: Storage, offset: Int = 0, shape: [Int]) {
    count = shape.reduce(1, *)
    precondition(
      offset >= 0 && (offset + count) * MemoryLayout<Float>.size <= storage.bytes,
      "Tensor: view exceeds its storage")
    self.storage = storage
    self.shape = shape
    self.offset = offset
  }

  /// Makes a tensor from values in row-major order.
  package init(_ values: [Float], shape: [Int]) {
    self.init(shape)
    precondition(values.count == count, "Tensor: \(values.count) values for shape \(shape)")
    values.withUnsafeBufferPointer { source in
      if let base = source.baseAddress { pointer.update(from: base, count: count) }
    }
  }

  /// Makes a tensor with all elements set to one value.
  package static func full(_ shape: [Int], _ value: Float) -> Tensor {
    let result = Tensor(shape)
    result.pointer.update(repeating: value, count: result.count)
    return result
  }

  /// Makes a tensor of zeros.
  package static func zeros(_ shape: [Int]) -> Tensor { full(shape, 0) }

  /// The same elements under another shape of equal count.
  package func reshaped(_ shape: [Int]) -> Tensor {
    precondition(shape.reduce(1, *) == count, "reshaped: \(self.shape) to \(shape)")
    return Tensor(storage: storage, offset: offset, shape: shape)
  }

  /// Rows `range` of the first axis, sharing storage.
  package func rows(_ range: Range<Int>) -> Tensor {
    let stride = shape.dropFirst().reduce(1, *)
    precondition(range.lowerBound >= 0 && range.upperBound <= shape[0], "rows: out of range")
    return Tensor(
      storage: storage, offset: offset + range.lowerBound * stride,
      shape: [range.count] + shape.dropFirst())
  }

  /// A copy with its own storage.
  package func copied() -> Tensor {
    let result = Tensor(shape)
    result.pointer.update(from: pointer, count: count)
    return result
  }

  /// Overwrites the elements with those of `other`, which has the same count.
  package func assign(_ other: Tensor) {
    precondition(other.count == count, "assign: \(other.shape) to \(shape)")
    pointer.update(from: other.pointer, count: count)
  }

  /// Overwrites all elements with one value.
  package func fill(_ value: Float) { pointer.update(repeating: value, count: count) }

  /// Whether no element is infinite or undefined.
  package var isFinite: Bool {
    // The largest bit pattern without signs, which compilers vectorise.
    let elements = pointer
    var largest: UInt32 = 0
    for index in 0..<count { largest = max(largest, elements[index].bitPattern & 0x7fff_ffff) }
    return largest < Float.infinity.bitPattern
  }

  /// The first element that is infinite or undefined, by its indices along the axes; nil if all are finite.
  package var firstNonFinite: [Int]? {
    guard !isFinite, var rest = (0..<count).first(where: { !self[$0].isFinite }) else { return nil }
    var indices: [Int] = []
    for extent in shape.reversed() {
      indices.append(rest % extent)
      rest /= extent
    }
    return indices.reversed()
  }

  /// The elements in row-major order.
  package var values: [Float] { Array(UnsafeBufferPointer(start: pointer, count: count)) }

  package subscript(index: Int) -> Float {
    get { pointer[index] }
    nonmutating set { pointer[index] = newValue }
  }
}
