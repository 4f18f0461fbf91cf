import Files

/// Element type of written NumPy arrays.
package protocol NumpyElement: BitwiseCopyable, Sendable {
  /// The type in a header (`descr`, numpy `lib/format.py`).
  static var numpyDescription: String { get }
}

extension UInt8: NumpyElement {
  package static let numpyDescription = "|u1"
}

extension Float: NumpyElement {
  package static let numpyDescription = "<f4"
}

extension Int64: NumpyElement {
  package static let numpyDescription = "<i8"
}

extension Double: NumpyElement {
  package static let numpyDescription = "<f8"
}

/// Writes an array incrementally in row-major order, so that it may exceed the memory.
package struct NumpyWriter<Element: NumpyElement> {
  private let append: (UnsafeRawBufferPointer) throws(FileError) -> Void

  /// Adds the next elements.
  ///
  /// - Throws: `FileError` as `AtomicFile.write` does.
  package func add(_ elements: [Element]) throws(FileError) {
    try elements.withUnsafeBytes { bytes in
      Result { () throws(FileError) in try append(bytes) }
    }.get()
  }

  /// Writes an array whose elements `body` adds; leaves no file if it throws.
  ///
  /// - Parameters:
  ///   - path: The file to write; with nil, `body` receives no writer.
  ///   - shape: Shape of the array.
  ///   - isArchive: Writes `arr_0` of an `.npz` archive, as the evaluator of openai/guided-diffusion
  ///     reads images, instead of a `.npy` file.
  ///   - labels: The member `arr_1` of the archive; nil for none.
  ///   - body: Adds exactly as many elements as the shape has.
  /// - Throws: Errors of `body`, or `FileError` as `AtomicFile.write` does.
  package static func write(
    to path: String?, shape: [Int], isArchive: Bool = false, labels: [Int64]? = nil,
    _ body: (Self?) throws -> Void
  ) throws {
    guard let path else { return try body(nil) }
    let header = header(shape)
    let size = header.count + shape.reduce(MemoryLayout<Element>.stride, *)
    var failure: (any Error)?
    func fill(
      _ append: (UnsafeRawBufferPointer) throws(FileError) -> Void
    ) throws(FileError) {
      try header.withUnsafeBytes { bytes in
        Result { () throws(FileError) in try append(bytes) }
      }.get()
      do {
        try withoutActuallyEscaping(append) { append in try body(Self(append: append)) }
      } catch {
        failure = error
        throw FileError("\(path): nothing was written")
      }
    }
    do throws(FileError) {
      try AtomicFile.stream(to: path) { sink throws(FileError) in
        if isArchive {
          var archive = ZipWriter(sink)
          try archive.member("arr_0.npy", size: size) { append throws(FileError) in
            try fill(append)
          }
          if let labels {
            try archive.member("arr_1.npy", NumpyWriter<Int64>.bytes(labels, [labels.count]))
          }
          return try archive.finish()
        }
        var written = 0
        try fill { bytes throws(FileError) in
          written += bytes.count
          try sink.append(bytes)
        }
        precondition(written == size, "\(path): \(written) bytes, announced \(size)")
      }
    } catch {
      throw failure ?? error
    }
  }

  /// A whole array in memory.
  fileprivate static func bytes(_ elements: [Element], _ shape: [Int]) -> [UInt8] {
    header(shape) + elements.withUnsafeBytes(Array.init)
  }

  /// Makes a header of format version 1, padded so that the data start at a multiple of 64 bytes.
  fileprivate static func header(_ shape: [Int]) -> [UInt8] {
    let extents = shape.map(String.init).joined(separator: ", ") + (shape.count == 1 ? "," : "")
    var text = "{'descr': '\(Element.numpyDescription)', 'fortran_order': False,"
    text += " 'shape': (\(extents)), }"
    text += String(repeating: " ", count: 63 - (10 + text.utf8.count) % 64) + "\n"
    let length = UInt16(text.utf8.count)
    return [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(length & 255), UInt8(length >> 8)]
      + Array(text.utf8)
  }
}

/// Writes archives of several arrays.
package enum NumpyArchive {
  /// Writes arrays of float64, and after them images that are read one by one.
  ///
  /// - Parameters:
  ///   - path: The `.npz` file.
  ///   - arrays: Names, shapes and elements.
  ///   - images: Name and shape of 8-bit images; nil for none.
  ///   - image: The bytes of an image.
  /// - Throws: Errors of `image`, and `FileError` as `AtomicFile.write` does.
  package static func write(
    to path: String, arrays: [(name: String, shape: [Int], elements: [Double])],
    images: (name: String, shape: [Int])?, image: (Int) throws(FileError) -> [UInt8]
  ) throws(FileError) {
    try AtomicFile.stream(to: path) { sink throws(FileError) in
      var archive = ZipWriter(sink)
      for (name, shape, elements) in arrays {
        try archive.member("\(name).npy", NumpyWriter<Double>.bytes(elements, shape))
      }
      if let images {
        let header = NumpyWriter<UInt8>.header(images.shape)
        let size = header.count + images.shape.reduce(1, *)
        try archive.member("\(images.name).npy", size: size) { append throws(FileError) in
          func add(_ bytes: [UInt8]) throws(FileError) {
            try bytes.withUnsafeBytes { bytes in
              Result { () throws(FileError) in try append(bytes) }
            }.get()
          }
          try add(header)
          for index in 0..<images.shape[0] { try add(try image(index)) }
        }
      }
      try archive.finish()
    }
  }
}
