import Autograd
import Grafting
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Step caching")
struct StepCacheTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let family: ModelFamily
    let method: LatentSampler.Method
    let guidance: Float
    var testDescription: String { "\(family) \(method.rawValue) \(guidance)" }
  }

  nonisolated static let cases = ModelFamily.allCases.flatMap { family in
    LatentSampler.Method.fitting(family.prediction).flatMap { method in
      [Float(1), 3].map { Case(family: family, method: method, guidance: $0) }
    }
  }

  private func sampler(_ item: Case, _ cache: StepCache?) -> LatentSampler {
    var sampler = LatentSampler(method: item.method, steps: 6, guidance: item.guidance, seed: 4)
    sampler.cache = cache
    return sampler
  }

  /// Threshold 0 reuses nothing and changes no byte; the largest one computes the first step alone.
  ///
  /// Both count the evaluations that a plain sampler makes.
  @Test(arguments: cases)
  func theLeastAndTheLargestThreshold(item: Case) throws {
    let teacher = try TinyFamily.model(item.family)
    let conditions = TinyFamily.conditions(item.family, 3)
    let plan = TinyFamily.plan(
      teacher, [SlotID(block: 1, slot: .attention): OperatorSpec("hyena_x")])
    for model in [teacher, try Graft(fresh: plan, teacher: teacher).model] {
      let plain = try sampler(item, nil).sample(model, for: conditions)
      let (none, most) = (StepReuse(), StepReuse())
      let same = try sampler(item, StepCache(threshold: 0)).sample(
        model, for: conditions, reuse: none)
      #expect(same.values == plain.values)
      #expect(none.reused == 0 && none.evaluations > 0)
      let other = try sampler(item, StepCache(threshold: 1e9)).sample(
        model, for: conditions, reuse: most)
      let rows = item.guidance == 1 ? 3 : 6
      #expect(most.evaluations == none.evaluations && most.reused == most.evaluations - rows)
      #expect(other.values != plain.values)
    }
  }

  /// Every image decides by itself: a batch has the bytes of its images one by one, and of itself again.
  @Test(arguments: ModelFamily.allCases, [false, true])
  func imagesDoNotDependOnTheirBatch(family: ModelFamily, forecasts: Bool) throws {
    let model = try TinyFamily.model(family)
    let conditions = TinyFamily.conditions(family, 4)
    let item = Case(family: family, method: LatentSampler.plainMethod(of: family), guidance: 3)
    // A threshold at which some rows of some steps are reused.
    var cache = StepCache(threshold: 1, forecasts: forecasts)
    var whole = Tensor([0])
    for _ in 0..<12 {
      let reuse = StepReuse()
      whole = try sampler(item, cache).sample(model, for: conditions, reuse: reuse)
      if reuse.reused > 0, reuse.reused % 8 != 0 { break }
      cache.threshold *= reuse.share > 0.5 ? 0.6 : 1.3
    }
    let counts = StepReuse()
    for row in 0..<4 {
      let one = try sampler(item, cache).sample(
        model, for: conditions.rows(row..<(row + 1)), first: row, reuse: counts)
      let expected = whole.rows(row..<(row + 1)).values
      if family.condition == .classes {
        #expect(one.values == expected)
      } else {
        // Captions of one image are projected with other sums than those of four, with and without a cache.
        #expect(zip(one.values, expected).allSatisfy { abs($0 - $1) < 1e-4 * (1 + abs($1)) })
      }
    }
    #expect(counts.reused > 0 && counts.reused < counts.evaluations)
    #expect(try sampler(item, cache).sample(model, for: conditions).values == whole.values)
  }

  /// Two computed steps and a reused one, against the definition: the first block at the third step, and the
  /// residual of the others as it was at the second, or as the line through both continues it.
  @Test(arguments: ModelFamily.allCases, [false, true])
  func aReusedStepIsTheFirstBlockAndAKeptResidual(family: ModelFamily, forecasts: Bool) throws {
    let model = try TinyFamily.model(family)
    let conditions = TinyFamily.conditions(family, 2)
    let condition: Conditioning.Condition =
      switch conditions {
      case .labels(let labels): .labels(labels)
      case .captions(let captions, _): Conditioning(timesteps: [], captions: captions).condition
      }
    let times: [Float] = family.prediction == .noise ? [600.2, 600.1, 600] : [0.4, 0.4001, 0.4002]
    let modulations = model.modulations(along: times, condition)
    let random = RandomStream(seed: 6, "step cache")
    let latents = [random.normal([2, 2, 4, 4]), random.normal([2, 2, 4, 4], from: 1000)]
    func parts(_ x: Tensor, _ time: Float) -> (
      first: [Float], head: Tensor, rest: Tensor, grid: TokenGrid
    ) {
      let tape = Tape(recording: false)
      let (tokens, grid) = model.embedded(Value(constant: x), on: tape, observe: nil)
      let modulations = modulations(time)
      let head = model.output(
        ofBlocks: 0..<1, tokens, modulations, grid: grid, on: tape
      ).tensor.copied()
      let last = model.output(
        ofBlocks: 1..<2, Value(constant: head), modulations, grid: grid, on: tape
      ).tensor.copied()
      for index in 0..<last.count { last[index] -= head[index] }
      let first = zip(head.values, tokens.tensor.values).map { $0 - $1 }
      return (first, head, last, grid)
    }
    let (first, second) = (parts(latents[0], times[0]), parts(latents[1], times[1]))
    let third = parts(latents[1], times[2])
    /// Relative changes of the first block's residual, of both rows.
    func changes(_ one: [Float], _ other: [Float]) -> [Double] {
      [0..<(one.count / 2), (one.count / 2)..<one.count].map { row in
        let change = row.reduce(0) { $0 + Double(abs(other[$1] - one[$1])) }
        return change / row.reduce(0) { $0 + Double(abs(one[$1])) }
      }
    }
    // Other latents change it much, a little time hardly.
    let large = try #require(changes(first.first, second.first).min())
    let small = try #require(changes(second.first, third.first).max())
    try #require(small < large)
    let reuse = StepReuse()
    let network = StepCachedNetwork(
      model, modulations, StepCache(threshold: (small * large).squareRoot(), forecasts: forecasts),
      reuse: reuse)
    for (x, time) in zip(latents, times) {
      let plain = model(
        Value(constant: x), modulations(time), on: Tape(recording: false)
      ).tensor
      #expect(network(x, time).values == plain.values)
    }
    try #require(reuse.reused == 0)
    let found = network(latents[1], times[2])
    #expect(reuse.reused == 2)
    let hidden = third.head.copied()
    let way = forecasts ? (times[2] - times[1]) / (times[1] - times[0]) : 0
    for index in 0..<hidden.count {
      let change = second.rest[index] - first.rest[index]
      hidden[index] += second.rest[index] + way * change
    }
    let expected = model.image(
      Value(constant: hidden), modulations(times[2]), grid: third.grid,
      on: Tape(recording: false), observe: nil
    ).tensor
    #expect(zip(found.values, expected.values).allSatisfy { abs($0 - $1) < 1e-4 * (1 + abs($1)) })
  }

  /// A pair of parallel blocks counts as one first block; where it is the whole model there is nothing to reuse.
  @Test func aPairIsTheFirstBlock() throws {
    let teacher = try TinyFamily.model(.dit)
    var plan = TinyFamily.plan(teacher, [:])
    plan.parallel = [BlockPair(first: 0): .mean]
    let model = try Graft(fresh: plan, teacher: teacher).model
    let item = Case(family: .dit, method: .ddim, guidance: 2)
    let conditions = TinyFamily.conditions(.dit, 2)
    let plain = try sampler(item, nil).sample(model, for: conditions)
    let cached = try sampler(item, StepCache(threshold: 1e9)).sample(model, for: conditions)
    #expect(zip(plain.values, cached.values).allSatisfy { abs($0 - $1) < 1e-5 * (1 + abs($1)) })
  }
}
