import Files
import Foundation
import Plans

/// Plan files, and what is kept for the next start.
extension FileWork {
  func save(
    _ plan: GraftPlan, to path: String, overwrite: Bool, known: GraftPlan?
  ) -> Action {
    let expanded = Self.expand(path)
    var isFolder: ObjCBool = false
    if FileManager.default.fileExists(atPath: expanded, isDirectory: &isFolder), isFolder.boolValue
    {
      return .planSaveFailed("\(path): is a folder; give the name of a file in it")
    }
    do {
      if overwrite {
        try plan.save(to: expanded)
      } else if try !plan.save(to: expanded, over: known) {
        return .planExists(path: path, present: try? read(expanded))
      }
      if watched?.path == expanded { watched?.stamp = try? AtomicFile.stamp(of: expanded) }
      return .planSaved(plan, path: path)
    } catch {
      return .planSaveFailed("\(error)")
    }
  }

  func load(_ path: String) -> Action {
    do {
      let stamp = try? AtomicFile.stamp(of: Self.expand(path))
      let plan = try GraftPlan.load(path: Self.expand(path))
      if plan.model.contentHash != model.contentHash {
        let file = AtomicFile.absolute(Self.expand(path))
        return .planOfOtherModel(.load(path: path), Opening(model: plan.model.path, plan: file))
      }
      try check(plan, at: path)
      if watched?.path == Self.expand(path) { watched?.stamp = stamp }
      return .planLoaded(plan, path: path)
    } catch {
      return .planLoadFailed("\(error)")
    }
  }

  /// Reads a plan for the explorer's model.
  func read(_ path: String) throws(PlanError) -> GraftPlan {
    let plan = try GraftPlan.load(path: path)
    try check(plan, at: path)
    return plan
  }

  /// Throws if a plan that was read is not for the explorer's model.
  func check(_ plan: GraftPlan, at path: String) throws(PlanError) {
    do {
      try plan.check(against: model)
    } catch {
      var named = error
      named.file = named.file ?? path
      throw named
    }
  }

  static func expand(_ path: String) -> String {
    guard path == "~" || path.hasPrefix("~/") else { return path }
    let home = ProcessInfo.processInfo.environment["HOME"] ?? ""
    return home + path.dropFirst()
  }

  /// Keeps unsaved edits for the case that the explorer is killed.
  func keep(_ unsaved: UnsavedPlan?) -> [Action] {
    do {
      guard let unsaved else {
        recovery?.remove()
        recovery = nil
        return []
      }
      if recovery == nil { recovery = try RecoveryFile(state: state) }
      try recovery?.write(unsaved)
      return []
    } catch {
      return [.planSaveFailed("unsaved edits are not kept for the case of a kill: \(error)")]
    }
  }

  /// Records what is shown, and watches the file of its plan.
  func keep(_ opening: Opening) -> [Action] {
    let path = opening.plan.map(Self.expand)
    if path != watched?.path {
      watched = path.map {
        (path: $0, shown: opening.plan ?? $0, stamp: try? AtomicFile.stamp(of: $0))
      }
    }
    do {
      try LastSession.keep(opening, state: state)
      return []
    } catch {
      return [.controlFailed("the session is not recorded for the next start: \(error)")]
    }
  }

  /// Records how things are drawn; a start without it draws them as the settings say.
  func keep(_ layout: KeptLayout) -> [Action] {
    do {
      try layout.write(state: state)
      return []
    } catch {
      return [.settingNotSaved("the layout is not kept for the next start: \(error)")]
    }
  }

  /// Notices that another program has changed or removed the file of the plan.
  func lookAtPlan() -> [Action] {
    guard let known = watched else { return [] }
    let stamp = try? AtomicFile.stamp(of: known.path)
    guard stamp != known.stamp else { return [] }
    watched?.stamp = stamp
    return known.stamp == nil ? [] : [.planChangedOnDisk(path: known.shown)]
  }
}
