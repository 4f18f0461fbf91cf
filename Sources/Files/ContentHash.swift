import CCrypto
import Foundation

/// SHA-256 digests (FIPS 180-4), which identify model files in plans and runs.
package enum ContentHash {
  /// Returns the digest of a file as 64 lower-case hexadecimal digits.
  ///
  /// - Throws: `FileError` when the file is missing, unreadable or no regular file.
  package static func sha256(path: String) throws(FileError) -> String {
    let file = try RegularFile(path)
    let digest = SHA256()
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
    defer { piece.deallocate() }
    while true {
      let moved = read(file.descriptor, piece.baseAddress, piece.count)
      if moved == 0 { return digest.finish() }
      if moved > 0 {
        digest.update(UnsafeRawBufferPointer(rebasing: piece[..<moved]))
      } else if errno != EINTR {
        throw .reading(path, errno: errno)
      }
    }
  }

  /// Returns the digest of a model in several files: the digest of their digests in order; for a
  /// single file, its digest.
  ///
  /// - Throws: `FileError` when a file is missing, unreadable or no regular file.
  package static func sha256(paths: [String]) throws(FileError) -> String {
    var digests: [String] = []
    for path in paths { digests.append(try sha256(path: path)) }
    return digest(of: digests)
  }

  /// Returns the digest of bytes in memory as 64 lower-case hexadecimal digits.
  package static func sha256(_ data: Data) -> String {
    let digest = SHA256()
    data.withUnsafeBytes { digest.update($0) }
    return digest.finish()
  }
}

/// Incremental SHA-256, computed by libcrypto.
private final class SHA256 {
  private let context = EVP_MD_CTX_new()

  init() {
    require(EVP_DigestInit_ex(context, EVP_sha256(), nil))
  }

  deinit { EVP_MD_CTX_free(context) }

  /// Appends bytes.
  func update(_ bytes: UnsafeRawBufferPointer) {
    require(EVP_DigestUpdate(context, bytes.baseAddress, bytes.count))
  }

  /// Returns the digest in hexadecimal.
  func finish() -> String {
    var digest = [UInt8](repeating: 0, count: 32)
    require(EVP_DigestFinal_ex(context, &digest, nil))
    return digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }

  /// Traps on failure, which depends on no input: a library without SHA-256, or memory exhaustion.
  private func require(_ status: Int32) {
    precondition(status == 1, "libcrypto cannot compute SHA-256")
  }
}
