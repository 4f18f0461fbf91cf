/// The shapes of an operator's parameters in a checkpoint, by their names relative to its prefix.
package struct OperatorShapes {
  /// Width of the model, at least 1.
  package let hiddenSize: Int
  private let shapes: [String: [Int]]

  /// States the shapes of all parameters of one operator.
  package init(_ shapes: [String: [Int]], hiddenSize: Int) {
    self.shapes = shapes
    self.hiddenSize = max(1, hiddenSize)
  }

  /// The names of the parameters, sorted.
  package var names: [String] { shapes.keys.sorted() }

  /// Whether the parameters are exactly a weight and a bias of each of these modules.
  func have(_ modules: String..., and others: [String] = []) -> Bool {
    Set(shapes.keys) == Set(modules.flatMap { ["\($0).weight", "\($0).bias"] } + others)
  }

  /// An extent of a parameter; nil if there is no such parameter or it has too few axes.
  subscript(name: String, axis: Int) -> Int? {
    shapes[name].flatMap { $0.indices.contains(axis) ? $0[axis] : nil }
  }

  /// The length of a convolution's kernel, as operators' settings have it.
  func taps(of module: String) -> Double? { self["\(module).weight", 2].map(Double.init) }
}
