/// A measured value with its standard error.
package struct Estimate: Codable, Equatable, Sendable {
  package let value, standardError: Double

  package init(value: Double, standardError: Double) {
    (self.value, self.standardError) = (value, standardError)
  }
}
