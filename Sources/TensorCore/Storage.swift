import CKernels
import Foundation

/// A value that threads take turns at.
///
/// The POSIX mutex rather than that of `Synchronization`, whose synchronisation ThreadSanitizer cannot
/// see and which spins before it sleeps.
private final class Guarded<Value>: @unchecked Sendable {
  private let lock = NSLock()
  private var value: Value

  init(_ value: Value) { self.value = value }

  func withLock<Result>(_ body: (inout Value) -> Result) -> Result {
    lock.lock()
    defer { lock.unlock() }
    return body(&value)
  }
}

/// A pool of float buffers keyed by size: after its first step a training loop allocates nothing.
///
/// It may be used from any thread; a tensor belongs to one thread all the same, see `Tensor`.
package enum BufferPool {
  /// An idle buffer; whoever holds it owns it alone.
  private struct Buffer: @unchecked Sendable {
    let pointer: UnsafeMutablePointer<Float>
  }

  private struct State {
    var free: [Int: [Buffer]] = [:]
    var allocations = 0
    var bytes = 0
  }

  private static let state = Guarded(State())
  /// Whether idle buffers are kept; AddressSanitizer wants each to be allocated and freed exactly.
  package static let keepsBuffers = ck_has_address_sanitizer() == 0

  /// Number of buffers obtained from the operating system so far (a test watches it).
  package static var allocations: Int { state.withLock { $0.allocations } }
  /// Bytes obtained from the operating system and not given back.
  package static var bytes: Int { state.withLock { $0.bytes } }

  /// Rounds a count up so that tensors of similar size share buffers.
  static func sizeClass(_ count: Int) -> Int {
    keepsBuffers ? max(16, (count + 15) / 16 * 16) : max(1, count)
  }

  static func take(_ size: Int) -> UnsafeMutablePointer<Float> {
    let idle = state.withLock { state in
      if let buffer = state.free[size]?.popLast() { return Optional(buffer) }
      state.allocations += 1
      state.bytes += size * 4
      return nil
    }
    if let idle { return idle.pointer }
    let raw = UnsafeMutableRawPointer.allocate(byteCount: size * 4, alignment: 64)
    return raw.bindMemory(to: Float.self, capacity: size)
  }

  static func give(_ buffer: UnsafeMutablePointer<Float>, size: Int) {
    guard keepsBuffers else {
      buffer.deallocate()
      return state.withLock { $0.bytes -= size * 4 }
    }
    let buffer = Buffer(pointer: buffer)
    state.withLock { $0.free[size, default: []].append(buffer) }
  }

  /// Returns all idle buffers to the operating system.
  package static func trim() {
    state.withLock { state in
      for (size, buffers) in state.free {
        for buffer in buffers { buffer.pointer.deallocate() }
        state.bytes -= size * 4 * buffers.count
      }
      state.free = [:]
    }
  }
}

/// The memory behind a tensor: a pooled buffer, or memory that another object owns.
package final class Storage {
  package let pointer: UnsafeMutablePointer<Float>
  package let count: Int
  private let size: Int
  private let owner: AnyObject?

  /// Takes an uninitialised buffer for `count` floats from the pool.
  package init(count: Int) {
    self.count = count
    size = BufferPool.sizeClass(count)
    pointer = BufferPool.take(size)
    owner = nil
  }

  /// Wraps memory that `owner` keeps alive (for example a mapped file); it must not be written to.
  package init(borrowing pointer: UnsafeMutablePointer<Float>, count: Int, owner: AnyObject) {
    self.count = count
    size = 0
    self.pointer = pointer
    self.owner = owner
  }

  deinit { if owner == nil { BufferPool.give(pointer, size: size) } }
}

/// A range of addresses without memory: reading or writing there ends the process.
private final class ForbiddenRange {
  let pointer: UnsafeMutablePointer<Float>
  private let bytes: Int

  init(count: Int) {
    bytes = max(1, count) * MemoryLayout<Float>.size
    let start = mmap(nil, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let start, start != MAP_FAILED else {
      preconditionFailure("no addresses for \(bytes) bytes")
    }
    pointer = start.bindMemory(to: Float.self, capacity: max(1, count))
  }

  deinit { munmap(pointer, bytes) }
}

extension Tensor {
  /// The shape of a tensor whose values are gone; whoever asks for them is stopped at once.
  ///
  /// - Parameter shape: Its shape.
  /// - Returns: A tensor that takes no memory.
  package static func forbidden(_ shape: [Int]) -> Tensor {
    let count = shape.reduce(1, *)
    let range = ForbiddenRange(count: count)
    return Tensor(
      storage: Storage(borrowing: range.pointer, count: count, owner: range), shape: shape)
  }
}
