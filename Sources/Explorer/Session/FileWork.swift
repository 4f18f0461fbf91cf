import Files
import Foundation
import Plans
import Runs
import Search

/// The state of the queue's work.
///
/// `@unchecked Sendable`: everything is touched on the serial queue of `LiveEffects` alone.
package final class FileWork: @unchecked Sendable {
  /// Makes and starts runs.
  package let launcher: RunLauncher
  let model: ModelReference
  let codeVersion: String
  /// Directory of what is kept for the next start.
  let state: String
  /// Library of the model's operators.
  let operators: OperatorLibrary
  var store: RunStore
  /// The run whose losses are shown, and those that are being compared.
  var (followed, compared): (String?, [String]) = (nil, [])
  var previews: [String: Int] = [:]
  /// The last preview, whose image of the teacher may be used again.
  var lastPreview: (settings: PreviewSettings, run: RunDirectory)?
  var delivered: [String: Int] = [:]
  var analysisRun: String?
  var (lastRecords, lastUnread): ([RunSummary]?, Int) = (nil, 0)
  var looks = 0
  /// Whether a look that reads on is queued already.
  var isReadingOn = false
  /// The file of the plan as last seen, and how the explorer spells its path.
  var watched: (path: String, shown: String, stamp: String?)?
  /// Throws if an engine cannot do a job of a plan.
  var check: EngineCheck = { _, _, _ in }
  /// The file of unsaved edits, while there are any.
  var recovery: RecoveryFile?

  /// Does the work for one run root and model.
  package init(
    launcher: RunLauncher, model: ModelReference, codeVersion: String,
    state: String = UserDirectory.state.path(), library: String? = nil
  ) {
    self.launcher = launcher
    self.state = state
    self.model = model
    operators = OperatorLibrary(modelHash: model.contentHash, root: library)
    self.codeVersion = codeVersion
    store = RunStore(root: launcher.root, readsPlans: true)
  }

  /// The directory of run directories.
  var root: String { launcher.root }

  // MARK: - Looking

  /// Bytes of logs that one look reads at most, some 0.1 s, so that work and other runs need not wait for a
  /// long log.
  static let readLimit = 8 << 20

  /// Whether logs are not read to their ends, so that the next look should follow at once.
  package var hasUnread: Bool { store.hasUnread }

  /// Looks at the runs at work every time, at all others and for new ones once a second.
  ///
  /// - Parameters:
  ///   - now: Current time.
  ///   - isReadingOn: Whether it only goes on with logs that are not read to their ends.
  /// - Returns: What is new.
  package func look(now: Date, isReadingOn: Bool = false) -> [Action] {
    let thorough = !isReadingOn && looks % 10 == 0
    if !isReadingOn { looks += 1 }
    if thorough {
      for run in launcher.collect() { store.noteEndedWorker(of: run.id) }
    }
    let changed = store.look(now: now, thorough: thorough, limit: Self.readLimit)
    var actions: [Action] = []
    let records = store.summaries
    if records != lastRecords {
      lastRecords = records
      actions.append(.runsScanned(records))
    }
    let unread = store.unreadCount
    if unread != lastUnread {
      lastUnread = unread
      actions.append(.runsUnread(unread))
    }
    if let id = followed, changed.contains(id), let history = store.history(id) {
      actions.append(.historyRead(id: id, history))
    }
    if !compared.isEmpty, !changed.isDisjoint(with: compared),
      case .runsRead(let read) = readCompared()
    {
      actions.append(.runsReadOn(read))
    }
    if thorough { actions += lookAtPlan() }
    actions += lookAtAnalysis(records)
    actions += previews.flatMap { lookAtPreview($0.key, generation: $0.value, records) }
    return actions
  }

  // MARK: - Acting

  /// Does one piece of work and returns what came of it at once.
  package func perform(_ effect: Effect) -> [Action] {
    switch effect {
    case .savePlan(let plan, let path, let overwrite, let known):
      return [save(plan, to: path, overwrite: overwrite, known: known)]
    case .loadPlan(let path):
      return [load(path)]
    case .openRun(let id, let adopt):
      return openRun(id, adopt: adopt)
    case .readRuns(let ids):
      return readRuns(ids)
    case .followRun(let id):
      return follow(id)
    case .startTraining(let plan, let kind, let weights, let options):
      return [startTraining(plan, kind, weights, options)]
    case .startChain(let plan, let report, let options):
      return [startChain(plan, report, options)]
    case .startReport(let request, let name, let writesPage):
      return [startReport(request, name, writesPage: writesPage)]
    case .readReport(let id): return [readReport(id)]
    case .readLibrary: return [readLibrary()]
    case .startSearching(let job, let plan, let options):
      return [startSearching(job, plan, options)]
    case .removeRuns(let ids): return removeRuns(ids)
    case .control, .killRun, .retryRun, .raisePriority, .readLog, .annotateRuns:
      return steer(effect)
    case .findAnalysis(let again):
      return [findAnalysis(again: again)]
    case .startPreview(let generation, let plan, let weights, let settings, let options):
      return startPreview(generation, plan, weights, settings, options)
    case .startRunPreview, .readCheckpoints, .readAttentionMaps, .savePictures, .readSet:
      return show(effect)
    case .keepUnsaved(let unsaved): return keep(unsaved)
    case .removeUnsaved(let file):
      RecoveryFile.remove(file)
      return []
    case .keepSession(let opening): return keep(opening)
    case .keepLayout(let layout): return keep(layout)
    case .saveSetting, .keepCommand, .listFiles:
      return keep(effect)
    case .redraw, .suspend, .probe, .wish, .announce, .copy, .solveFront, .openModel, .inspect:
      return []
    }
  }
}
