import ArgumentParser
import Plans

extension PlanCommand {
  /// `espalier plan parallel`: makes adjacent blocks parallel, or sequential again.
  struct Parallel: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Make neighbouring blocks parallel (depth to width), or split them again.",
      discussion: """
        The chosen blocks are taken in twos: 'all' makes half as many steps of any even number of \
        blocks, '2-5' makes the pairs 2+3 and 4+5. Both blocks of a pair receive the same input. \
        Their outputs a and b are merged by a learned linear layer (projection, the paper's), by \
        their mean, or by adding what each of them adds to the input x, a + b - x (residual).
        """)

    @Argument(help: "The plan file to change.") var plan: String
    @Option(help: "Blocks: \(SlotSelection.forms).") var blocks: String
    @Option(help: "Merge of the outputs: \(ParallelMerge.names) (default: projection).")
    var merge: ParallelMerge?
    @Flag(help: "Split the pairs that the blocks are in.") var split = false
    @OptionGroup var output: OutputOptions

    func run() throws {
      if split, merge != nil { throw ValidationError("give either --merge or --split, not both") }
      let changed = try GraftPlan.update(path: plan) { changed in
        let chosen = try PlanCommand.blocks(blocks, of: changed, .attention)
        if split {
          guard chosen.contains(where: { changed.pair(of: $0) != nil }) else {
            throw PlanError(
              key: "--blocks",
              "none of these blocks is parallel to another one;"
                + " 'espalier plan show' lists the pairs")
          }
          changed.split(chosen)
        } else {
          do throws(PlanError) {
            try changed.join(chosen, merge: merge ?? .projection)
          } catch {
            throw PlanError(key: "--blocks", error.message)
          }
        }
      }
      try PlanSummary(changed).show(output)
    }
  }
}

extension ParallelMerge: ExpressibleByArgument {}
