/// What passes between the operations of a model: float32, or bfloat16 between operations that work in it.
package enum Activation {
  case floats(Tensor)
  case rounded(RoundedTensor)

  package var shape: [Int] {
    switch self {
    case .floats(let tensor): tensor.shape
    case .rounded(let tensor): tensor.shape
    }
  }

  /// The values in float32; a new tensor where they are rounded.
  package var floats: Tensor {
    switch self {
    case .floats(let tensor): tensor
    case .rounded(let tensor): tensor.floats
    }
  }
}
