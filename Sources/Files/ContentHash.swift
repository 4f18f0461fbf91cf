import Foundation

/// The SHA-256 digest (FIPS 180-4) by which plans and runs name a model's exact bytes.
package enum ContentHash {
  /// The digest of a file's content as 64 lower-case hexadecimal digits.
  ///
  /// - Throws: `FileError` when the file is missing, unreadable or no regular file.
  package static func sha256(path: String) throws(FileError) -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .reading(path, errno: errno) }
    defer { close(descriptor) }
    _ = try MappedFile.regularSize(descriptor, path: path)
    var digest = SHA256()
    // A multiple of the block size, so that only the last piece leaves a rest.
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 64)
    defer { piece.deallocate() }
    while true {
      let moved = read(descriptor, piece.baseAddress, piece.count)
      if moved == 0 { return digest.finish() }
      if moved > 0 {
        digest.update(UnsafeRawBufferPointer(rebasing: piece[..<moved]))
      } else if errno != EINTR {
        throw .reading(path, errno: errno)
      }
    }
  }

  /// The digest of a model in several files: that of their digests, in order; that of a single file is
  /// its own.
  ///
  /// - Throws: `FileError` when a file is missing, unreadable or no regular file.
  package static func sha256(paths: [String]) throws(FileError) -> String {
    var digests: [String] = []
    for path in paths { digests.append(try sha256(path: path)) }
    return digest(of: digests)
  }

  /// The digest of bytes in memory as 64 lower-case hexadecimal digits.
  package static func sha256(_ data: Data) -> String {
    var digest = SHA256()
    data.withUnsafeBytes { digest.update($0) }
    return digest.finish()
  }
}

/// A running SHA-256 over bytes that arrive in pieces.
struct SHA256 {
  private var state: [UInt32] = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a,
    0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
  ]
  private var rest: [UInt8] = []
  private var length: UInt64 = 0

  /// Takes the next bytes.
  mutating func update(_ bytes: UnsafeRawBufferPointer) {
    length &+= UInt64(bytes.count)
    var bytes = bytes
    if !rest.isEmpty {
      let taken = min(64 - rest.count, bytes.count)
      rest.append(contentsOf: bytes[..<taken])
      bytes = UnsafeRawBufferPointer(rebasing: bytes[taken...])
      guard rest.count == 64 else { return }
      rest.withUnsafeBytes { Self.compress(&state, $0) }
      rest.removeAll(keepingCapacity: true)
    }
    let whole = bytes.count & ~63
    Self.compress(&state, UnsafeRawBufferPointer(rebasing: bytes[..<whole]))
    rest.append(contentsOf: bytes[whole...])
  }

  /// Pads, processes the last block and gives the digest in hexadecimal.
  mutating func finish() -> String {
    let bits = length &* 8
    rest.append(0x80)
    while rest.count % 64 != 56 { rest.append(0) }
    withUnsafeBytes(of: bits.bigEndian) { rest.append(contentsOf: $0) }
    rest.withUnsafeBytes { Self.compress(&state, $0) }
    rest.removeAll()
    return state.map { word in
      let hex = String(word, radix: 16)
      return String(repeating: "0", count: 8 - hex.count) + hex
    }.joined()
  }

  /// Folds whole 64-byte blocks into the state.
  private static func compress(_ state: inout [UInt32], _ blocks: UnsafeRawBufferPointer) {
    state.withUnsafeMutableBufferPointer { state in
      constants.withUnsafeBufferPointer { constants in
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { schedule in
          for start in stride(from: 0, to: blocks.count, by: 64) {
            fill(schedule, from: blocks, at: start)
            rounds(state, schedule, constants)
          }
        }
      }
    }
  }

  @inline(__always)
  private static func fill(
    _ schedule: UnsafeMutableBufferPointer<UInt32>, from blocks: UnsafeRawBufferPointer,
    at start: Int
  ) {
    for index in 0..<16 {
      let word = blocks.loadUnaligned(fromByteOffset: start + 4 * index, as: UInt32.self)
      schedule.initializeElement(at: index, to: word.byteSwapped)
    }
    for index in 16..<64 {
      let early = schedule[index - 15]
      let late = schedule[index - 2]
      let small = rotated(early, 7) ^ rotated(early, 18) ^ (early >> 3)
      let large = rotated(late, 17) ^ rotated(late, 19) ^ (late >> 10)
      schedule.initializeElement(
        at: index, to: schedule[index - 16] &+ small &+ schedule[index - 7] &+ large)
    }
  }

  @inline(__always)
  private static func rounds(
    _ state: UnsafeMutableBufferPointer<UInt32>, _ schedule: UnsafeMutableBufferPointer<UInt32>,
    _ constants: UnsafeBufferPointer<UInt32>
  ) {
    var (a, b, c, d) = (state[0], state[1], state[2], state[3])
    var (e, f, g, h) = (state[4], state[5], state[6], state[7])
    for index in 0..<64 {
      let first =
        h &+ (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) &+ ((e & f) ^ (~e & g))
        &+ constants[index] &+ schedule[index]
      let second =
        (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) &+ ((a & b) ^ (a & c) ^ (b & c))
      (h, g, f, e) = (g, f, e, d &+ first)
      (d, c, b, a) = (c, b, a, first &+ second)
    }
    state[0] &+= a
    state[1] &+= b
    state[2] &+= c
    state[3] &+= d
    state[4] &+= e
    state[5] &+= f
    state[6] &+= g
    state[7] &+= h
  }

  @inline(__always)
  private static func rotated(_ word: UInt32, _ count: UInt32) -> UInt32 {
    word &>> count | word &<< (32 &- count)
  }

  private static let constants: [UInt32] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4,
    0xab1c_5ed5, 0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe,
    0x9bdc_06a7, 0xc19b_f174, 0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f,
    0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da, 0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7,
    0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967, 0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc,
    0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85, 0xa2bf_e8a1, 0xa81a_664b,
    0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070, 0x19a4_c116,
    0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7,
    0xc671_78f2,
  ]
}
