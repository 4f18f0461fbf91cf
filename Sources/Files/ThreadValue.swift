import Foundation

/// A value of the calling thread that is set for the duration of a call.
///
/// Optimised code that sets a task-local value outside a task ends in a bad memory access (Swift 6.3).
package final class ThreadValue<Value: Sendable>: Sendable {
  private final class Box: Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
  }

  private let key = UUID().uuidString

  package init() {}

  /// The innermost value that is set on this thread.
  package var value: Value? { (Thread.current.threadDictionary[key] as? Box)?.value }

  /// Calls `body` with a value set.
  @discardableResult
  package func withValue<Result>(_ value: Value, _ body: () throws -> Result) rethrows -> Result {
    let values = Thread.current.threadDictionary
    let outer = values[key]
    values[key] = Box(value)
    defer {
      if let outer { values[key] = outer } else { values.removeObject(forKey: key) }
    }
    return try body()
  }
}
