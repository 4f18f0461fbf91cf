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

  /// Family, size and shape.
  var shape: ModelShape { get }
  /// All blocks by pretrained index, including parallel ones.
  var blocks: [any TransformerBlock] { get }
  /// Merges of the pairs of parallel blocks; all other blocks are sequential.
  var merges: [BlockPair: BlockMerge] { get }
  /// All parameters with their keys in the official repository.
  var parameters: [Parameter] { get }

  /// Computes what blocks and final layer read beside the tokens.
  ///
  /// - Parameters:
  ///   - conditioning: Times and classes or captions, as the family takes them.
  ///   - tape: Tape, recording for training.
  ///   - observe: Called with the embeddings.
  /// - Returns: The modulations of the batch.
  func modulations(_ conditioning: Conditioning, on tape: Tape, observe: Observer?) -> Modulations

  /// The modulations at the steps of a sampling trajectory with the same condition at every step.
  ///
  /// - Parameters:
  ///   - times: The times of the steps, in order.
  ///   - condition: Classes or captions.
  /// - Returns: The modulations at a time, one of the steps' or another.
  func modulations(
    along times: [Float], _ condition: Conditioning.Condition
  ) -> (Float) -> Modulations

  /// Embeds latents x (batch, channels, height, width) with positions -> (batch, tokens, dim).
  ///
  /// - Parameters:
  ///   - x: Latents with sides that are multiples of the patch size.
  ///   - tape: Tape of the operations.
  ///   - observe: Called with the embeddings.
  /// - Returns: The input of the first block, and the grid of its tokens.
  func embedded(_ x: Value, on tape: Tape, observe: Observer?) -> (tokens: Value, grid: TokenGrid)

  /// Applies one block, as it would run alone, to its input (batch, tokens, dim).
  ///
  /// - Parameters:
  ///   - index: The block.
  ///   - hidden: Its input.
  ///   - modulations: Modulations of the batch.
  ///   - grid: Token grid.
  ///   - operators: Operators in place of the block's own.
  ///   - tape: Tape of the operations.
  ///   - observe: Called with the block's operator activations.
  /// - Returns: Its output.
  func output(
    ofBlock index: Int, _ hidden: Value, _ modulations: Modulations, grid: TokenGrid,
    with operators: BlockOperators, on tape: Tape,
    observe: ((AdaLNBlock.Activations) -> Void)?
  ) -> Value

  /// Applies the final layer to the output of the last block -> (batch, outChannels, height, width).
  func image(
    _ hidden: Value, _ modulations: Modulations, grid: TokenGrid, on tape: Tape, observe: Observer?
  ) -> Value

  /// Makes a model of the same configuration with other operators and weights.
  ///
  /// - Throws: `PlanError` for an operator that cannot be built, errors of the weight source.
  func remade(
    with changes: GraftPlan.Changes, weights: any WeightSource
  ) throws -> any DiffusionTransformer

  /// The keys of diffusers whose rows concatenate to a parameter; empty for one that it computes.
  func diffusersKeys(_ official: String) -> [String]

  /// Conditioning of some images at the middle of the process, for measurements of speed.
  func exampleConditioning(_ count: Int) -> Conditioning

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
  /// Predicts from latents x (batch, channels, height, width) -> (batch, outChannels, height, width).
  ///
  /// - Parameters:
  ///   - x: Noisy latents, with sides that are multiples of the patch size; positions of another grid than that
  ///     of the model are computed at scaled coordinates.
  ///   - conditioning: Times and classes or captions, as the family takes them.
  ///   - tape: Tape, recording for training.
  ///   - observe: Called with embeddings, inputs and outputs of blocks, and the final layer's tensors.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Prediction of the network.
  package func callAsFunction(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer? = nil,
    observeBlock: BlockObserver? = nil
  ) -> Value {
    self(
      x, modulations(conditioning, on: tape, observe: observe), on: tape, observe: observe,
      observeBlock: observeBlock)
  }

  /// Runs the network with precomputed modulations.
  package func callAsFunction(
    _ x: Value, _ modulations: Modulations, on tape: Tape, observe: Observer? = nil,
    observeBlock: BlockObserver? = nil
  ) -> Value {
    let (tokens, grid) = embedded(x, on: tape, observe: observe)
    let hidden = output(
      ofBlocks: 0..<shape.depth, tokens, modulations, grid: grid, on: tape, observe: observe,
      observeBlock: observeBlock)
    return image(hidden, modulations, grid: grid, on: tape, observe: observe)
  }

  /// Runs consecutive blocks, pairs of parallel blocks among them, on tokens (batch, tokens, dim).
  ///
  /// - Parameters:
  ///   - range: The blocks; no pair may have one block in it and the other outside.
  ///   - hidden: Input of the first of them.
  ///   - modulations: Modulations of the batch.
  ///   - grid: Token grid.
  ///   - tape: Tape of the operations.
  ///   - observe: Called with inputs, modulations and outputs of blocks, and outputs of merges.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Output of the last of them.
  package func output(
    ofBlocks range: Range<Int>, _ hidden: Value, _ modulations: Modulations, grid: TokenGrid,
    on tape: Tape, observe: Observer? = nil, observeBlock: BlockObserver? = nil
  ) -> Value {
    func run(_ index: Int, _ x: Value) -> Value {
      observe?("blocks.\(index).in", x)
      observe?("blocks.\(index).adaLN.out", modulations.block(index))
      let report = observeBlock.map { call in { call(index, $0) } }
      let out = tape.segment { [self] tape in
        output(
          ofBlock: index, x, modulations, grid: grid, with: BlockOperators(), on: tape,
          observe: report)
      }
      observe?("blocks.\(index).out", out)
      return out
    }
    var (hidden, index) = (hidden, range.lowerBound)
    while index < range.upperBound {
      let pair = BlockPair(first: index)
      if let merge = merges[pair] {
        hidden = merge(hidden, run(pair.first, hidden), run(pair.second, hidden), on: tape)
        observe?("blocks.\(index).merge.out", hidden)
        index += 2
      } else {
        hidden = run(index, hidden)
        index += 1
      }
    }
    return hidden
  }

  /// Runs the blocks from one on and the final layer on the grid of the model; no pair may begin before that
  /// block and end behind it.
  ///
  /// - Parameters:
  ///   - first: The block; the number of blocks runs the final layer alone.
  ///   - hidden: Its input (batch, tokens, dim).
  ///   - modulations: Modulations of the batch.
  ///   - tape: Tape of the operations.
  /// - Returns: Prediction of the network, as a whole run gives it.
  package func resumed(
    at first: Int, _ hidden: Value, _ modulations: Modulations, on tape: Tape
  ) -> Value {
    image(
      output(ofBlocks: first..<shape.depth, hidden, modulations, grid: grid, on: tape), modulations,
      grid: grid, on: tape, observe: nil)
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

  /// Time in the middle of the process of the model's family.
  var middleTime: Float { shape.family.prediction == .noise ? 500 : 0.5 }

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
