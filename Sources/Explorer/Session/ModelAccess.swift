/// What the explorer asks of files of models, which it does not read itself.
package struct ModelAccess: Sendable {
  /// Opens a model, with the plan if there is one, to see whether it can be shown.
  ///
  /// Gives the opening with a name of the model that holds in every directory; throws why it cannot be shown.
  package let open: @Sendable (Opening) throws -> Opening
  /// What a file of tensors holds, in lines; the flag asks for statistics of the tensors, for which all of it is read.
  package let describe: @Sendable (String, Bool) throws -> [String]

  /// Makes an access.
  package init(
    open: @escaping @Sendable (Opening) throws -> Opening,
    describe: @escaping @Sendable (String, Bool) throws -> [String]
  ) {
    (self.open, self.describe) = (open, describe)
  }

  /// What came of the opening of another model.
  func answer(to opening: Opening) -> Action {
    do {
      return .modelOpened(asked: opening, try open(opening))
    } catch {
      return .planLoadFailed("\(error)")
    }
  }

  /// What is said of a file: at first without statistics, which take longer.
  func answer(about name: String, withStatistics: Bool) -> Action {
    do {
      return .inspected(name, try describe(name, withStatistics))
    } catch {
      return .inspected(name, ["\(error)"])
    }
  }
}
