import CKernels
import Foundation

/// A value behind a mutex.
///
/// The POSIX mutex rather than that of `Synchronization`, whose synchronisation ThreadSanitizer cannot
/// see and which spins before it sleeps.
final class Guarded<Value>: @unchecked Sendable {
  private let lock = NSLock()
  private var value: Value

  init(_ value: Value) { self.value = value }

  func withLock<Result>(_ body: (inout Value) -> Result) -> Result {
    lock.lock()
    defer { lock.unlock() }
    return body(&value)
  }
}

/// A pool of buffers keyed by their size in bytes: after its first step a training loop allocates nothing.
///
/// The pool may be used from any thread, unlike a tensor, which belongs to one thread (see `Tensor`).
package enum BufferPool {
  /// An idle buffer, of which there is no other reference.
  private struct Buffer: @unchecked Sendable {
    let pointer: UnsafeMutableRawPointer
  }

  private struct State {
    var free: [Int: [Buffer]] = [:]
    var allocations = 0
    var bytes = 0
  }

  private static let state = Guarded(State())
  /// Whether idle buffers are kept; AddressSanitizer needs every buffer to be allocated and freed exactly.
  package static let keepsBuffers = ck_has_address_sanitizer() == 0

  /// Number of buffers obtained from the operating system so far (a test watches it).
  package static var allocations: Int { state.withLock { $0.allocations } }
  /// Bytes obtained from the operating system and not given back.
  package static var bytes: Int { state.withLock { $0.bytes } }

  /// Rounds a size up so that buffers of similar size are shared.
  static func sizeClass(_ bytes: Int) -> Int {
    keepsBuffers ? max(64, (bytes + 63) / 64 * 64) : max(1, bytes)
  }

  static func take(_ size: Int) -> UnsafeMutableRawPointer {
    let idle = state.withLock { state in
      if let buffer = state.free[size]?.popLast() { return Optional(buffer) }
      state.allocations += 1
      state.bytes += size
      return nil
    }
    return idle?.pointer ?? .allocate(byteCount: size, alignment: 64)
  }

  static func give(_ pointer: UnsafeMutableRawPointer, size: Int) {
    guard keepsBuffers else {
      pointer.deallocate()
      return state.withLock { $0.bytes -= size }
    }
    let buffer = Buffer(pointer: pointer)
    state.withLock { $0.free[size, default: []].append(buffer) }
  }

  /// Returns all idle buffers to the operating system.
  package static func trim() {
    state.withLock { state in
      for (size, buffers) in state.free {
        for buffer in buffers { buffer.pointer.deallocate() }
        state.bytes -= size * buffers.count
      }
      state.free = [:]
    }
  }
}

/// Untyped memory of a tensor or of a packed operand, from the pool.
package final class Storage {
  package let pointer: UnsafeMutableRawPointer
  package let bytes: Int
  private let size: Int

  /// Takes a buffer that is not initialised and starts at a multiple of 64 bytes.
  package init(bytes: Int) {
    self.bytes = bytes
    size = BufferPool.sizeClass(bytes)
    pointer = BufferPool.take(size)
  }

  deinit { BufferPool.give(pointer, size: size) }

  /// The memory as elements of a plain type.
  package func elements<Element: BitwiseCopyable>() -> UnsafeMutablePointer<Element> {
    pointer.assumingMemoryBound(to: Element.self)
  }
}
