/// Parameter shapes of an operator in a checkpoint, by name relative to its prefix.
package struct OperatorShapes {
  /// Width of the model, at least 1.
  package let hiddenSize: Int
  private let shapes: [String: [Int]]

  /// Makes a value from the shapes of all parameters of one operator.
  package init(_ shapes: [String: [Int]], hiddenSize: Int) {
    self.shapes = shapes
    self.hiddenSize = max(1, hiddenSize)
  }

  /// The names of the parameters, sorted.
  package var names: [String] { shapes.keys.sorted() }

  /// Whether the parameters are exactly a weight and a bias per module, and `others`.
  func have(_ modules: String..., and others: [String] = []) -> Bool {
    have(modules, and: others)
  }

  /// Whether the parameters are exactly a weight and a bias per module, and `others`.
  func have(_ modules: [String], and others: [String] = []) -> Bool {
    Set(shapes.keys) == Set(modules.flatMap { ["\($0).weight", "\($0).bias"] } + others)
  }

  /// Extent of a parameter along `axis`; nil if the parameter is missing or has too few axes.
  subscript(name: String, axis: Int) -> Int? {
    shapes[name].flatMap { $0.indices.contains(axis) ? $0[axis] : nil }
  }

  /// Kernel length of a depthwise convolution, as a setting value.
  func taps(of module: String) -> Double? { self["\(module).weight", 2].map(Double.init) }
}
