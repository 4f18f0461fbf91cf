import ArgumentParser
import Files
import Foundation
import Models
import Plans
import Runs

/// Consent to weights of several origins.
struct MixtureOptions: ParsableArguments {
  @Flag(
    help: .init(
      "Accept weights of several runs, or of runs for some of the replaced slots and fresh ones for the"
        + " others."))
  var allowMixture = false

  /// Prints what a plan has weights of.
  ///
  /// - Throws: `FileError` for a mixture without consent.
  func requireConsent(to weights: PlanWeights, plan: String) throws {
    guard !weights.sites.isEmpty else { return }
    guard allowMixture || !weights.isMixture else {
      throw FileError(
        "\(plan): \(weights.sentence()); --allow-mixture takes this mixture, or name a run that trained"
          + " all of them")
    }
    printToStandardError("espalier: note: \(weights.sentence())\n")
  }
}

/// Weights named on the command line.
enum WeightSource {
  /// The absolute path of a file.
  case file(String)
  /// A run.
  case run(RunDirectory)

  /// The word for the weights of all runs that trained the same operators.
  static let matching = "matching"

  /// Parses the value of an option.
  ///
  /// - Throws: `FileError` for what is neither a file nor a run.
  init(_ name: String, option: String, root: String) throws {
    var isDirectory: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: name, isDirectory: &isDirectory)
    if exists, !isDirectory.boolValue {
      self = .file(AtomicFile.absolute(name))
      return
    }
    let isRun = !name.contains("/") && !RunSelection.matches(of: name, root: root).isEmpty
    guard exists || isRun else {
      throw FileError(
        "\(option): '\(name)' is neither a file nor a run in \(root); give the path of a checkpoint,"
          + " a run that 'espalier runs' lists, or \(Self.matching)")
    }
    self = .run(try RunSelection.find(name, root: root))
  }
}

extension PlanWeights {
  /// Weights of the runs in a root that trained the operators of a plan.
  init(matching plan: GraftPlan, root: String) {
    var store = RunStore(root: root, readsPlans: true)
    store.look()
    self.init(of: plan, runs: store.summaries)
  }

  /// Weights of files and runs, later ones overriding earlier ones.
  ///
  /// - Parameters:
  ///   - plan: The plan.
  ///   - sources: The files and runs.
  ///   - expecting: Whether the weights are loaded after the end of runs that go on.
  /// - Returns: nil if a file does not say what it was trained for.
  /// - Throws: `FileError` for a run, `FileError` for a file, that has no weights of the plan.
  static func of(
    _ plan: GraftPlan, _ sources: [WeightSource], expecting: Bool = false
  ) throws -> PlanWeights? {
    var found: [Source] = []
    for source in sources {
      switch source {
      case .file(let path):
        guard let sites = try sites(of: plan, in: path) else { return nil }
        found.append(
          Source(id: path, name: path, kind: .distill, state: .done, step: 0, sites: sites))
      case .run(let run):
        let own = PlanWeights(of: plan, runs: [run.summaryWithPlan()], expecting: expecting)
        guard plan.isEmpty || !own.sources.isEmpty else {
          throw FileError(
            "\(run.path): \(own.exclusions.first?.reason ?? "trains nothing"), so it has no weights for the"
              + " plan \(plan.name); name another run, or leave --from out for fresh operators")
        }
        found += own.sources
      }
    }
    return PlanWeights(of: plan, named: found)
  }

  /// Sites of a plan whose weights a file holds; nil if it embeds no plan.
  private static func sites(of plan: GraftPlan, in path: String) throws -> [GraftSite]? {
    let weights = try ModelWeights(path: path)
    guard let text = weights.metadata[DiTFile.planKey] else { return nil }
    let trained = try GraftPlan.parse(text, file: "\(path) (embedded plan)")
    guard trained.model.contentHash == plan.model.contentHash else {
      throw FileError(
        "\(path): was grafted from another model than the plan's, \(plan.model.path); give a"
          + " checkpoint of a run on that model")
    }
    return plan.sites.filter { plan.agrees(with: trained, at: $0) }
  }
}
