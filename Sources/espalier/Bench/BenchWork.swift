import Autograd
import Datasets
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore
import Training

/// Workload timed by `espalier bench` and its counterparts in Benchmarks/.
struct BenchWork: Sendable {
  /// Name, shared with the counterparts.
  let id: String
  let title: String
  /// Number of units per run, for the rate.
  let units: Double
  let unit: String
  /// Whether a precision affects it, through large linear layers, convolutions or products.
  var hasPrecision = false
  /// Prepares the workload in a precision and returns the timed closure.
  let make: @Sendable (Precision) throws -> () -> Void

  static func named(_ id: String) -> BenchWork? { all.first { $0.id == id } }

  /// Default workloads.
  static let defaults = ["product", "demo_forward_1", "demo_forward_8", "demo_train"]

  static let all: [BenchWork] =
    [
      BenchWork(
        id: "product", title: "matrix product 512x4608x1152", units: 2e-9 * 512 * 4608 * 1152,
        unit: "GFLOP/s", hasPrecision: true, make: product),
      forward("forward_1", "DiT-XL/2 forward, 256 tokens", xl, batch: 1),
      forward("forward_2", "DiT-XL/2 forward, 256 tokens", xl, batch: 2),
      stage1("stage1_hyena_x", "Hyena-X", OperatorSpec("hyena_x"), .attention),
      stage1("stage1_mha", "MHA", OperatorSpec("mha"), .attention),
      stage1("stage1_hyena_se", "Hyena-SE", OperatorSpec("hyena_se"), .attention),
      stage1("stage1_hyena_y", "Hyena-Y", OperatorSpec("hyena_y"), .attention),
      stage1("stage1_mlp_r3", "MLP r=3", mlp(ratio: 3), .mlp),
      stage1("stage1_mlp_r6", "MLP r=6", mlp(ratio: 6), .mlp),
      BenchWork(
        id: "decode", title: "SD autoencoder decode to 256 px", units: 1, unit: "images/s",
        hasPrecision: true, make: decode),
      forward("demo_forward_1", "shipped model forward, 256 tokens", demo, batch: 1),
      forward("demo_forward_8", "shipped model forward, 256 tokens", demo, batch: 8),
      BenchWork(
        id: "demo_train", title: "shipped model training step, batch 32", units: 32,
        unit: "samples/s", make: train),
    ] + growth + pixArt + fits + search + screen

  static let xl = ModelShape(
    depth: 28, hiddenSize: 1152, numHeads: 16, patchSize: 2, inputSize: 32, numClasses: 1000)
  static let demo = ModelShape(
    depth: 28, hiddenSize: 64, numHeads: 4, patchSize: 1, inputSize: 16, numClasses: 10)

  private static func mlp(ratio: Double) -> OperatorSpec {
    OperatorSpec("mlp", ["expansion_ratio": ratio])
  }

  /// Makes a normal random input.
  static func normal(_ name: String, _ shape: [Int]) -> Tensor {
    RandomStream(seed: 1, "bench/\(name)").normal(shape)
  }

  @Sendable private static func product(_ precision: Precision) -> () -> Void {
    let (m, n, k) = (512, 4608, 1152)
    let (a, b) = (normal("left", [m, k]), normal("right", [n, k]))
    if precision.isRounded || PackedMatrix.hasFloat32 {
      let right = PackedMatrix(.float32(b), isTransposed: true, precision)
      if !precision.isRounded {
        let result = Tensor([m, n])
        return { right.multiply(.float32(a), into: .float32(result)) }
      }
      let (left, result) = (BFloat16Tensor(rounding: a), BFloat16Tensor([m, n]))
      return { right.multiply(.bfloat16(left), into: .bfloat16(result)) }
    }
    let c = Tensor([m, n])
    return {
      Gemm.run(transposeB: true, m: m, n: n, k: k, a: a.pointer, b: b.pointer, c: c.pointer)
    }
  }

  private static func forward(_ id: String, _ title: String, _ config: ModelShape, batch: Int)
    -> BenchWork
  {
    BenchWork(
      id: id, title: "\(title), batch \(batch)", units: Double(batch), unit: "images/s",
      hasPrecision: config.hiddenSize >= 256
    ) { precision in
      let model = try DiT(
        config: config, weights: SealedWeights(FreshWeights(seed: 1), precision))
      // As after loading a model.
      BufferPool.trim()
      let latents = normal(
        "latents", [batch, config.inChannels, config.inputSize, config.inputSize])
      let conditioning = Conditioning(
        timesteps: [Float](repeating: 500, count: batch), labels: [Int](repeating: 0, count: batch))
      return { _ = model.predict(latents, conditioning) }
    }
  }

  /// One step of activation distillation of an operator at the width of DiT-XL/2, without the
  /// teacher pass.
  private static func stage1(_ id: String, _ title: String, _ spec: OperatorSpec, _ slot: Slot)
    -> BenchWork
  {
    let (batch, tokens, dim) = (8, 256, 1152)
    return BenchWork(
      id: id, title: "stage-1 step, \(title), \(batch) x \(tokens) x \(dim)", units: Double(batch),
      unit: "samples/s", hasPrecision: true
    ) { precision in
      let context = OperatorContext(
        hiddenSize: dim, tokens: tokens, numHeads: 16, prefix: "", weights: FreshWeights(seed: 1))
      let student: any GraftOperator =
        slot == .attention
        ? try OperatorRegistry.sequenceMixer(spec, context)
        : try OperatorRegistry.channelMixer(spec, context)
      student.parameters.use(precision)
      let optimizer = AdamW(student.parameters)
      let (input, target) = (
        normal("input", [batch, tokens, dim]), normal("target", [batch, tokens, dim])
      )
      let objective: RegressionObjective = slot == .attention ? .l1 : .l2
      return {
        let tape = Tape()
        let output = student(Value(constant: input), on: tape)
        let (_, gradient) = objective.lossAndGradient(output.tensor, target)
        tape.backward(output, gradient)
        optimizer.step(rate: 1e-4, clipNorm: 10, gradientScale: 1)
      }
    }
  }

  @Sendable private static func decode(_ precision: Precision) throws -> () -> Void {
    let autoencoder = try AutoencoderKL(
      config: AutoencoderKLConfig(blockOutChannels: [128, 256, 512, 512]),
      weights: FreshWeights(seed: 1), precision: PrecisionRule(precision))
    let latents = normal("latents", [1, 4, 32, 32])
    return { _ = autoencoder.decode(latents) }
  }

  @Sendable private static func train(_: Precision) throws -> () -> Void {
    let batch = 32
    let trainer = DiffusionTrainer(
      model: try DiT(config: demo, weights: FreshWeights(seed: 1)),
      process: .noise(try GaussianDiffusion(spacing: "")), emaDecay: 0.999)
    let shape = [batch, demo.inChannels, demo.inputSize, demo.inputSize]
    let data = DiffusionBatch(
      latents: normal("latents", shape), noise: normal("noise", shape),
      steps: (0..<batch).map { 1000 * $0 / batch },
      labels: (0..<batch).map { $0 % 10 })
    return { _ = trainer.step(data, microBatch: 2, rate: 1e-4, clipNorm: 1) }
  }
}
