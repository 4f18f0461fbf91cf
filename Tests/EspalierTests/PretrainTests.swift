import Foundation
import Testing

/// Recipes of `espalier pretrain` that cannot be followed: refused before anything is made.
@Suite struct PretrainTests {
  static let recipe = """
    {
      "name": "tiny",
      "model": {
        "depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 1, "input_size": 16,
        "in_channels": 4, "num_classes": 10
      },
      "autoencoder": "autoencoder.safetensors",
      "data": { "seed": 2, "count": 40 },
      "phases": [
        { "grid": 8, "steps": 2, "batch": 4, "micro_batch": 2, "learning_rate": 1e-3,
          "final_learning_rate": 6e-4, "warmup_steps": 1 }
      ],
      "clip_norm": 1.0, "ema_decay": 0.999, "label_dropout": 0.1, "embedder_std": 0.1, "seed": 0,
      "checkpoint_every": 500
    }
    """

  @Test(arguments: [
    PlanFault(
      "depth", #""depth": 2"#, #""depth": 1000000000"#, "r.json:4: model.depth: expected 1 to 1024"),
    PlanFault(
      "no width", #""hidden_size": 32"#, #""hidden_size": 0"#, "model.hidden_size", "found 0"),
    PlanFault("heads", #""num_heads": 4"#, #""num_heads": -1"#, "model.num_heads", "found -1"),
    PlanFault(
      "checkpoints", "500", "0", "r.json:14: checkpoint_every: expected 1 to 10000000, found 0"),
    PlanFault(
      "batch", #""batch": 4"#, #""batch": 1000000000"#, "phases[0].batch: expected 1 to 65536"),
    PlanFault("micro batch", #""micro_batch": 2"#, #""micro_batch": 0"#, "phases[0].micro_batch"),
    PlanFault("steps", #""steps": 2"#, #""steps": 9223372036854775807"#, "phases[0].steps"),
    PlanFault("whole steps", #""steps": 2"#, #""steps": 1e300"#, "expected a whole number"),
    PlanFault(
      "grid", #""grid": 8"#, #""grid": 3"#, "phases[0].grid: expected a divisor of input_size 16"),
    PlanFault("rate", "1e-3", "1e300", "phases[0].learning_rate: expected 1e-12 to 1"),
    PlanFault("warm-up", #""warmup_steps": 1"#, #""warmup_steps": -1"#, "phases[0].warmup_steps"),
    PlanFault("images", #""count": 40"#, #""count": 0"#, "r.json:8: data.count"),
    PlanFault("clipping", #""clip_norm": 1.0"#, #""clip_norm": 0"#, "clip_norm: expected 1e-09"),
    PlanFault("average", "0.999", "-1", "ema_decay"),
    PlanFault(
      "dropout", #""label_dropout": 0.1"#, #""label_dropout": 2"#, "label_dropout: expected 0 to 1"),
    PlanFault(
      "seed", #""seed": 0"#, #""seed": -1"#, "r.json:13: seed: expected a whole number from 0 up"),
    PlanFault(
      "unknown key", #""seed": 0"#, #""seed": 0, "sead": 0"#,
      "sead: unknown key, expected one of name"),
    PlanFault("missing key", #""seed": 0,"#, "", "seed: the key is missing; add it"),
    PlanFault(
      "optimizer", #""seed": 0"#, #""seed": 0, "optimizer": "sgd""#,
      #"optimizer: expected "adamw" or "muon""#),
    PlanFault(
      "timesteps", #""seed": 0"#, #""seed": 0, "timestep_density": [[5, 1], [3, 1]]"#,
      "timestep_density: expected"),
    PlanFault(
      "classes", #""seed": 0"#, #""seed": 0, "class_weights": [1, 2]"#,
      "class_weights: expected 10 weights"),
    PlanFault(
      "rare class", #""seed": 0"#,
      #""seed": 0, "class_weights": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1e-300]"#,
      "class_weights[9]: expected 1e-06"),
    PlanFault(
      "no text", #""autoencoder.safetensors""#, #""""#, "autoencoder: expected a text of 1"),
    PlanFault("no JSON", #""seed": 0,"#, #""seed" 0,"#, "r.json:13: not valid JSON"),
    PlanFault(
      "memory", #""depth": 2, "hidden_size": 32"#, #""depth": 1024, "hidden_size": 65536"#,
      "model: the model's weights with what trains them would take", "lower the numbers"),
  ])
  func refusesFaultyRecipe(_ fault: PlanFault) throws {
    let scratch = try Scratch()
    let text = Self.recipe.replacingOccurrences(of: fault.find, with: fault.replace)
    try #require(text != Self.recipe && Self.recipe.components(separatedBy: fault.find).count == 2)
    try scratch.put(text, "r.json")
    try scratch.expectRefusal(
      ["pretrain", "r.json", "--output", "out"], mentions: fault.mentions)
    #expect(!FileManager.default.fileExists(atPath: "\(scratch.path)/out"))
  }

  @Test func refusesRecipeWithoutPhases() throws {
    let scratch = try Scratch()
    let start = try #require(Self.recipe.range(of: #""phases": ["#)?.upperBound)
    let end = try #require(Self.recipe.range(of: "]")?.lowerBound)
    try scratch.put(Self.recipe.replacingCharacters(in: start..<end, with: ""), "r.json")
    try scratch.expectRefusal(
      ["pretrain", "r.json", "--output", "out"], mentions: ["phases: expected at least one phase"])
  }
}
