import ArgumentParser
import Plans

extension PlanCommand {
  /// `espalier plan operators`: lists the replacement operators.
  struct Operators: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "List the operators, their slots and settings.")

    @OptionGroup var output: OutputOptions

    private struct Row: Encodable {
      struct Setting: Encodable {
        let key, summary: String
        let `default`, minimum, maximum: Double
        let isInteger: Bool
        let names: [String]
      }
      let name, title, summary: String
      let slots: [Slot]
      let settings: [Setting]
    }

    func run() throws {
      let rows = OperatorCatalog.all.map { descriptor in
        Row(
          name: descriptor.name, title: descriptor.title, summary: descriptor.summary,
          slots: Slot.allCases.filter(descriptor.slots.contains),
          settings: descriptor.openFields.map { field in
            Row.Setting(
              key: field.key, summary: field.summary, default: field.defaultNumber,
              minimum: field.bounds.lowerBound, maximum: field.bounds.upperBound,
              isInteger: field.isWholeNumber, names: field.names)
          })
      }
      if output.json { return try output.printJSON(rows) }
      for row in rows {
        print("\(row.name) (\(row.slots.map(\.rawValue).joined(separator: ", "))): \(row.summary)")
        for setting in row.settings {
          print(
            "  \(setting.key) \(numberText(setting.minimum)) to \(numberText(setting.maximum)),"
              + " default \(numberText(setting.default)): \(setting.summary)")
        }
      }
    }
  }
}
