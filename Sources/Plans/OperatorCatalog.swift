import Synchronization

/// Every operator that can be grafted, as far as that needs no tensors.
///
/// The operators stand in a numeric target, which plans and the terminal must not reach. So the
/// program hands their descriptors over when it starts, before it reads a plan.
package enum OperatorCatalog {
  private static let filled = Mutex<[OperatorDescriptor]>([])

  /// Hands over the operators in the order of the picker; the same list may be handed over again.
  ///
  /// - Precondition: no other list was handed over before, names are unique.
  package static func fill(_ descriptors: [OperatorDescriptor]) {
    let names = descriptors.map(\.name)
    precondition(Set(names).count == names.count, "OperatorCatalog: a name twice in \(names)")
    filled.withLock { current in
      precondition(
        current.isEmpty || current.map(\.name) == names,
        "OperatorCatalog: filled with \(current.map(\.name)), then with \(names)")
      if current.isEmpty { current = descriptors }
    }
  }

  /// The operators in the order of the picker.
  ///
  /// - Precondition: the catalog is filled.
  package static var all: [OperatorDescriptor] {
    let descriptors = filled.withLock { $0 }
    precondition(
      !descriptors.isEmpty,
      "OperatorCatalog: used before it is filled; call OperatorRegistry.fillCatalog() first")
    return descriptors
  }

  /// The operator with the official name, or `nil`.
  package static func descriptor(named name: String) -> OperatorDescriptor? {
    all.first { $0.name == name }
  }

  /// The short label of an operator; of one that the catalog does not know, its name.
  package static func label(_ spec: OperatorSpec) -> String {
    descriptor(named: spec.name)?.label(spec) ?? spec.name
  }

  /// The operators that a slot can take.
  package static func fitting(_ slot: Slot) -> [OperatorDescriptor] {
    all.filter { $0.slots.contains(slot) }
  }
}
