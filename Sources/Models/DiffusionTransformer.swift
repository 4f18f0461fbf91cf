import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// Block of a diffusion transformer with its two operator slots.
package protocol TransformerBlock: AnyObject {
  /// The operator in the attention slot.
  var sequenceMixer: any SequenceMixer { get }
  /// The operator in the MLP slot.
  var channelMixer: any ChannelMixer { get }
  var parameters: [Parameter] { get }
}

/// Diffusion transformer of any family with replaceable operators; everything above the models runs on it.
package protocol DiffusionTransformer: AnyObject {
  /// Receives intermediate values by upstream module name.
  typealias Observer = (_ name: String, _ value: Value) -> Void
  /// Receives every block's index and operator activations.
  typealias BlockObserver = (Int, AdaLNBlock.Activations) -> Void
  /// Network of one trajectory: latents (batch, channels, height, width) at a time of all rows.
  typealias TrajectoryModel = (_ latents: Tensor, _ time: Float) -> Tensor

  /// Family, size and shape.
  var shape: ModelShape { get }
  /// All blocks by pretrained index, including parallel ones.
  var blocks: [any TransformerBlock] { get }
  /// Merges of the pairs of parallel blocks; all other blocks are sequential.
  var merges: [BlockPair: BlockMerge] { get }
  /// All parameters with their keys in the official repository.
  var parameters: [Parameter] { get }

  /// Predicts from latents x (batch, channels, height, width) -> (batch, outChannels, height, width).
  ///
  /// - Parameters:
  ///   - x: Noisy latents, with sides that are multiples of the patch size.
  ///   - conditioning: Times and classes or captions, as the family takes them.
  ///   - tape: Tape, recording for training.
  ///   - observe: Called with embeddings and the final layer's tensors.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Prediction of the network.
  func forward(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer?,
    observeBlock: BlockObserver?
  ) -> Value

  /// Makes a model of the same configuration with other operators and weights.
  ///
  /// - Throws: `PlanError` for an operator that cannot be built, errors of the weight source.
  func remade(
    with changes: GraftPlan.Changes, weights: any WeightSource
  ) throws -> any DiffusionTransformer

  /// Network for the steps of a sampling trajectory with the same condition at every step.
  ///
  /// - Parameters:
  ///   - condition: Classes or captions.
  ///   - times: The times of the steps, in order.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: The network at every step.
  func trajectory(
    _ condition: Conditioning.Condition, times: [Float], observeBlock: BlockObserver?
  ) -> TrajectoryModel

  /// The keys of diffusers whose rows concatenate to a parameter; empty for one that it computes.
  func diffusersKeys(_ official: String) -> [String]

  /// Conditioning of one image at a time, for measurements of speed.
  func exampleConditioning(at time: Float) -> Conditioning

  /// The conditioning (batch, dim) that parallel blocks receive.
  func pairCondition(_ conditioning: Conditioning, on tape: Tape) -> Value

  /// Applies two parallel blocks and their merge to x (batch, tokens, dim) on the grid of the model.
  func output(of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape) -> Value

  /// Computes what the projection of two parallel blocks reads: their outputs one behind the other
  /// (batch, tokens, 2 dim).
  func mergeFeatures(
    of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape
  ) -> Value
}

extension DiffusionTransformer {
  package func callAsFunction(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer? = nil,
    observeBlock: BlockObserver? = nil
  ) -> Value {
    forward(x, conditioning, on: tape, observe: observe, observeBlock: observeBlock)
  }

  /// Runs inference without recording.
  package func predict(_ x: Tensor, _ conditioning: Conditioning) -> Tensor {
    self(Value(constant: x), conditioning, on: Tape(recording: false)).tensor
  }

  /// The operator in a slot.
  package func replaceable(_ id: SlotID) -> any GraftOperator {
    let block = blocks[id.block]
    return id.slot == .attention ? block.sequenceMixer : block.channelMixer
  }

  /// The parameters of two parallel blocks and their merge.
  package func parameters(of pair: BlockPair) -> [Parameter] {
    pair.blocks.flatMap { blocks[$0].parameters } + (merges[pair]?.parameters ?? [])
  }

  package var merges: [BlockPair: BlockMerge] { [:] }

  /// The token grid of the model's own size.
  package var grid: TokenGrid { TokenGrid(rows: shape.grid, columns: shape.grid) }

  package func trajectory(
    _ condition: Conditioning.Condition, times: [Float], observeBlock: BlockObserver?
  ) -> TrajectoryModel {
    { latents, time in
      self(
        Value(constant: latents),
        Conditioning(
          timesteps: [Float](repeating: time, count: latents.shape[0]), condition: condition),
        on: Tape(recording: false), observeBlock: observeBlock
      ).tensor
    }
  }

  package func pairCondition(_ conditioning: Conditioning, on tape: Tape) -> Value {
    preconditionFailure("\(shape.family): no parallel blocks")
  }

  package func output(
    of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape
  ) -> Value {
    preconditionFailure("\(shape.family): no parallel blocks")
  }

  package func mergeFeatures(
    of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape
  ) -> Value {
    preconditionFailure("\(shape.family): no parallel blocks")
  }
}
