import Runs
import Testing

@Suite struct StepSeriesTests {
  private func series(_ count: Int, _ value: (Int) -> Double) -> StepSeries {
    var series = StepSeries()
    for step in 0..<count { series.append(StepValue(step: step, value: value(step))) }
    return series
  }

  @Test func aShortRunIsKeptWhole() {
    let series = series(StepSeries.limit) { Double($0 % 7) }
    #expect(series.map(\.step) == Array(0..<StepSeries.limit))
    #expect(series.map(\.value) == (0..<StepSeries.limit).map { Double($0 % 7) })
  }

  /// However long the run, memory is bounded and neither ends nor spikes are lost.
  @Test(arguments: [1025, 5000, 300_000])
  func aLongRunKeepsItsSpikes(count: Int) {
    let (high, low) = (count / 3, count - 7)
    let series = series(count) { step in
      step == high ? 99 : step == low ? -99 : 1 + 0.25 * Double(step % 5)
    }
    #expect(series.count <= StepSeries.limit + 4 && series.count >= StepSeries.limit / 4)
    #expect(series.first == StepValue(step: 0, value: 1))
    #expect(series.last?.step == count - 1)
    #expect(series.contains(StepValue(step: high, value: 99)))
    #expect(series.contains(StepValue(step: low, value: -99)))
    #expect(zip(series, series.dropFirst()).allSatisfy { $0.step < $1.step })
    // Every stretch of the run is still told of.
    let gap = zip(series, series.dropFirst()).map { $1.step - $0.step }.max() ?? 0
    #expect(gap <= 16 * count / StepSeries.limit)
  }

  @Test func notANumberIsKeptLikeASpike() {
    let series = series(4000) { $0 == 1234 ? .nan : 1 }
    #expect(series.contains { $0.step == 1234 && $0.value.isNaN })
  }

  /// A worker that began again at a checkpoint replaces what came after it, also in merged buckets.
  @Test func goingBack() {
    var series = series(5000) { Double($0) }
    series.append(StepValue(step: 2000, value: -1))
    #expect(series.last == StepValue(step: 2000, value: -1))
    #expect(series.dropLast().allSatisfy { $0.step < 2000 })
    for step in 2001..<9000 { series.append(StepValue(step: step, value: 0)) }
    #expect(series.contains(StepValue(step: 2000, value: -1)))
    #expect(series.last?.step == 8999 && series.count <= StepSeries.limit + 4)
    series.append(StepValue(step: 0, value: 5))
    #expect(Array(series) == [StepValue(step: 0, value: 5)])
    series.drop(after: -1)
    #expect(series.isEmpty)
  }

  @Test func thinnedForAPicture() {
    let points = series(800) { $0 == 555 ? 7 : 0 }
    #expect(points.thinned(limit: 300) == Array(points))
    let thin = points.thinned(limit: 50)
    #expect(thin.count <= 100 && thin.contains(StepValue(step: 555, value: 7)))
  }
}
