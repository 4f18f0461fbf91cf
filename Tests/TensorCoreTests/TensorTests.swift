import Dispatch
import Synchronization
import TensorCore
import Testing

@MainActor @Suite("Tensors and their buffers")
struct TensorTests {
  @Test func viewsShareStorageAndCopiesDoNot() {
    let tensor = Tensor((0..<12).map(Float.init), shape: [4, 3])
    let view = tensor.rows(1..<3)
    #expect(view.shape == [2, 3] && view.values == [3, 4, 5, 6, 7, 8])
    let copy = view.copied()
    view.reshaped([6])[0] = 99
    #expect(tensor[3] == 99 && copy[0] == 3)
    #expect(view.rows(1..<2).values == [6, 7, 8])
    tensor.rows(3..<4).assign(Tensor([1, 2, 3], shape: [3]))
    #expect(tensor.values.suffix(4) == [8, 1, 2, 3])
  }

  @Test func buffersAreAligned() {
    for count in [1, 15, 17, 1000] {
      #expect(Int(bitPattern: Tensor([count]).pointer) % 64 == 0)
    }
  }

  @Test(.enabled(if: BufferPool.keepsBuffers)) func droppedBuffersAreReused() {
    BufferPool.trim()
    let bytes = BufferPool.bytes
    let before = BufferPool.allocations
    // 100 003 elements: a size that no other test uses.
    for round in 0..<50 {
      let first = Tensor([100_003])
      let second = Tensor.full([100_001], Float(round))
      first.fill(-1)
      #expect(second[0] == Float(round) && second[100_000] == Float(round))
    }
    #expect(BufferPool.allocations - before == 2)
    BufferPool.trim()
    #expect(BufferPool.bytes == bytes)
  }

  @Test func aViewKeepsItsBufferFromBeingReused() {
    var view = Tensor([2, 50_017]).rows(1..<2)
    view.fill(7)
    let others = (0..<4).map { Tensor.full([2, 50_017], Float($0)) }
    #expect(view.values.allSatisfy { $0 == 7 })
    #expect(others[3][0] == 3)
    view = others[0]
  }

  @Test func threadsNeverShareABuffer() {
    let wrong = Atomic(0)
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      for round in 0..<2000 {
        let tensors = (0..<3).map { Tensor.full([40 + $0 * 16], Float(thread * 10 + $0)) }
        for (index, tensor) in tensors.enumerated()
        where tensor.values.contains(where: { $0 != Float(thread * 10 + index) }) {
          wrong.add(round + 1, ordering: .relaxed)
        }
      }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
  }
}
