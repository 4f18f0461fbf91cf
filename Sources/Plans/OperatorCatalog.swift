/// Every operator that can be grafted; adding one is one descriptor file and one line here.
package enum OperatorCatalog {
  /// The operators in the order of the picker.
  package static let all: [OperatorDescriptor] = [
    .multiHeadAttention,
    .slidingWindowAttention,
    .hyenaX,
    .multilayerPerceptron,
  ]

  /// The operator with the official name, or `nil`.
  package static func descriptor(named name: String) -> OperatorDescriptor? {
    all.first { $0.name == name }
  }

  /// The operators that a slot can take.
  package static func fitting(_ slot: Slot) -> [OperatorDescriptor] {
    all.filter { $0.slot == slot }
  }
}
