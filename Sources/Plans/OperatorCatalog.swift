import Synchronization

/// Descriptors of all replacement operators.
///
/// Operators are implemented in a target on which plans and the terminal do not depend, so the
/// program registers their descriptors at start, before it reads a plan.
package enum OperatorCatalog {
  private static let filled = Mutex<[OperatorDescriptor]>([])

  /// Registers the operators in the order of the picker; may be repeated with the same list.
  ///
  /// - Precondition: No other list was registered before; names are unique.
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

  /// All operators in the order of the picker.
  ///
  /// - Precondition: the catalog is filled.
  package static var all: [OperatorDescriptor] {
    let descriptors = filled.withLock { $0 }
    precondition(
      !descriptors.isEmpty,
      "OperatorCatalog: used before it is filled; call OperatorRegistry.fillCatalog() first")
    return descriptors
  }

  /// Operator with an official name, or nil.
  package static func descriptor(named name: String) -> OperatorDescriptor? {
    all.first { $0.name == name }
  }

  /// Setting of an operator, or nil.
  package static func field(_ key: String, of name: String) -> (any SettingRow)? {
    descriptor(named: name)?.fields.first { $0.key == key }
  }

  /// Short label of an operator; the name of an unknown one.
  package static func label(_ spec: OperatorSpec) -> String {
    descriptor(named: spec.name)?.label(spec) ?? spec.name
  }

  /// Operators that fit a slot.
  package static func fitting(_ slot: Slot) -> [OperatorDescriptor] {
    all.filter { $0.slots.contains(slot) }
  }
}
