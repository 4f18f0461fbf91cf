import Autograd
import Files
import Operators
import Plans
import TensorCore

/// Single operators: output and all gradients (`op_*`).
enum OperatorCases {
  /// Returns a sentence if the registry lacks the operator.
  static func refusal(_ fixture: Fixture) throws -> String? {
    missing(try fixture.settings.text("op"))
  }

  /// Returns a sentence if the registry lacks the name.
  static func missing(_ name: String) -> String? {
    OperatorCatalog.descriptor(named: name) == nil ? "there is no operator \(name) yet" : nil
  }

  /// Makes a plan entry from the settings of a fixture.
  ///
  /// Settings implied by others or by the model are omitted; the shapes of the parameters verify
  /// them.
  /// - Throws: `FileError` for invalid settings of the operator.
  static func spec(_ settings: Settings, in fixture: Fixture, shape: ModelShape) throws
    -> (OperatorSpec, OperatorDescriptor)
  {
    let name = try settings.text("op")
    guard let descriptor = OperatorCatalog.descriptor(named: name) else {
      throw FileError("\(fixture.path): '\(name)' is no operator of this build")
    }
    var spec = OperatorSpec(name)
    for field in descriptor.openFields where settings.has(field.key) {
      spec.config[field.key] = try settings.number(field.key)
    }
    if settings.has("window"), descriptor.openFields.contains(where: { $0.key == "window_left" }) {
      let window = try settings.numbers("window")
      guard window.count == 2 else {
        throw FileError(
          "\(fixture.path): config key 'window' has \(window.count) numbers, expected 2; the file"
            + " is damaged, copy it again")
      }
      (spec.config["window_left"], spec.config["window_right"]) = (window[0], window[1])
    }
    if let refusal = descriptor.refusal(of: spec, shape: shape) {
      throw FileError("\(fixture.path): \(refusal.key): \(refusal.message)")
    }
    return (spec, descriptor)
  }

  /// Builds an operator with the fixture's parameters; `settings` has `op`, `d` and its settings.
  static func build(_ settings: Settings, tokens: Int, in fixture: Fixture) throws
    -> any GraftOperator
  {
    let width = try settings.integer("d", in: 1...65536)
    let heads = settings.has("num_heads") ? try settings.integer("num_heads", in: 1...width) : 1
    guard width % heads == 0 else {
      throw FileError(
        "\(fixture.path): config key 'num_heads' is \(heads), expected a divisor of d \(width); the"
          + " file is damaged, copy it again")
    }
    let shape = ModelShape(
      depth: 1, hiddenSize: width, numHeads: heads, patchSize: 1, inputSize: tokens,
      inChannels: 1, numClasses: 1, learnSigma: true, mlpRatio: 4)
    let (spec, descriptor) = try spec(settings, in: fixture, shape: shape)
    let context = OperatorContext(
      hiddenSize: width, tokens: tokens, numHeads: heads, prefix: "",
      weights: try fixture.weights())
    let slot = descriptor.slots.contains(.attention) ? Slot.attention : .mlp
    return try OperatorRegistry.make(spec, for: slot, context)
  }

  /// Compares `out.y`, `out.L` and all gradients of L = sum(y * cotangent).
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let settings = fixture.settings
    let shape = [
      try settings.integer("B", in: 1...65536), try settings.integer("N", in: 1...65536),
      try settings.integer("d", in: 1...65536),
    ]
    let module = try build(settings, tokens: shape[1], in: fixture)
    try check.requireNames(module.parameters)
    check.round(module.parameters)
    let tape = Tape()
    let x = tape.leaf(try fixture.tensor("in.x", shape: shape))
    let cotangent = try fixture.tensor("in.cotangent", shape: shape)
    let y = try apply(module, x, settings, in: fixture, on: tape)
    try check.forward("out.y", y.tensor)
    try check.forward("out.L", [inner(y.tensor, cotangent)])
    tape.backward(y, cotangent)
    try check.gradient("in.x", tape.gradient(of: x) ?? .zeros(shape))
    try check.gradients(of: module.parameters)
  }

  /// Applies an operator, on the token grid of the configuration if it states one.
  private static func apply(
    _ module: any GraftOperator, _ x: Value, _ settings: Settings, in fixture: Fixture,
    on tape: Tape
  ) throws -> Value {
    guard settings.has("grid"), let mixer = module as? any SequenceMixer else {
      return module(x, on: tape)
    }
    let sides = try settings.integers("grid")
    guard sides.count == 2, sides.allSatisfy({ (1...65536).contains($0) }),
      sides[0] * sides[1] == x.shape[1]
    else {
      throw FileError(
        "\(fixture.path): config key 'grid' is \(sides), expected the rows and columns of \(x.shape[1])"
          + " tokens; the file is damaged, copy it again")
    }
    return mixer(x, grid: TokenGrid(rows: sides[0], columns: sides[1]), on: tape)
  }

  /// Inner product of two tensors with the same number of elements.
  static func inner(_ a: Tensor, _ b: Tensor) -> Double {
    zip(a.values, b.values).reduce(0) { $0 + Double($1.0) * Double($1.1) }
  }
}
