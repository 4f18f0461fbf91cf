import CKernels
import Dispatch
import Synchronization
import TensorCore
import Testing

@MainActor @Suite("Parallel work")
struct ParallelTests {
  /// Runs a body with a number of pool threads and restores the former number.
  private func withThreads(_ count: Int, _ body: () -> Void) {
    let former = Parallel.threads
    ck_pool_set_threads(Int32(count))
    defer { ck_pool_set_threads(Int32(former)) }
    body()
  }

  @Test(arguments: [1, 2, 3, 5])
  func rangesCoverEverythingOnce(threads: Int) {
    withThreads(threads) {
      for count in [0, 1, 2, 3, 7, 64, 1001] {
        for grain in [1, 2, 10, 5000] {
          let visits = Tensor.zeros([count])
          let smallest = Atomic(Int.max)
          Parallel.ranges(count, grain: grain) { range in
            smallest.min(range.count, ordering: .relaxed)
            for index in range { visits[index] += 1 }
          }
          #expect(visits.values.allSatisfy { $0 == 1 }, "\(count) \(grain)")
          // No thread is woken for less than a grain, unless there is less than that in all.
          if count > 0 {
            #expect(smallest.load(ordering: .relaxed) >= min(count, grain), "\(count) \(grain)")
          }
        }
      }
    }
  }

  @Test(arguments: [1, 2, 4])
  func manySmallJobsRunEveryTaskOnce(threads: Int) {
    withThreads(threads) {
      var wrong = 0
      for job in 0..<4000 {
        let count = job % 9
        let visits = Tensor.zeros([max(1, count)])
        Parallel.tasks(count) { visits[$0] += Float($0 + 1) }
        for index in 0..<count where visits[index] != Float(index + 1) { wrong += 1 }
        if count == 0 && visits[0] != 0 { wrong += 1 }
      }
      #expect(wrong == 0)
    }
  }

  @Test func manyTasksInOneJob() {
    let count = 70_000  // More than a job's index field holds.
    let visits = Tensor.zeros([count])
    Parallel.tasks(count) { visits[$0] += 1 }
    #expect(visits.values.allSatisfy { $0 == 1 })
  }

  @Test func nestedJobsRunOnTheCallingThread() {
    let sums = Tensor.zeros([8])
    Parallel.tasks(8) { outer in
      Parallel.ranges(100) { range in sums[outer] += Float(range.reduce(0, +)) }
    }
    #expect(sums.values == [Float](repeating: 4950, count: 8))
  }

  @Test func callersOnSeveralThreadsDoNotDisturbEachOther() {
    let wrong = Atomic(0)
    DispatchQueue.concurrentPerform(iterations: 6) { caller in
      for _ in 0..<300 {
        let visits = Tensor.zeros([11])
        Parallel.tasks(11) { visits[$0] += Float(caller + 1) }
        if visits.values != [Float](repeating: Float(caller + 1), count: 11) {
          wrong.add(1, ordering: .relaxed)
        }
      }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
  }
}
