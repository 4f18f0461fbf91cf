import Foundation
import Models
import Plans

extension DataSettings {
  /// Help text of an option for data.
  static let help = """
    What to train on: a folder of images by class, or latents with labels (.npz, .safetensors, \
    latents.npy, webdataset tars, or a folder of such files); shapes for the procedural images, self for samples \
    that the model draws itself
    """
}

extension GraftPlan {
  /// Sets the training data to a path relative to the current directory or to `shapes`.
  mutating func train(on data: String) throws(PlanError) {
    if data == "shapes" { return self.data = nil }
    try set("data.path", to: data)
  }

  /// Reads a plan file and checks that it was made for the model; errors name the file.
  static func load(path: String, for files: ModelFiles) throws -> GraftPlan {
    let plan = try load(path: path)
    try plan.check(against: files, file: path)
    return plan
  }

  /// Checks that the plan, read from `file`, was made for the model.
  func check(against files: ModelFiles, file: String) throws {
    let reference = try files.reference()
    try naming(file) { () throws(PlanError) in try check(against: reference) }
  }
}

/// Adds the name of a file to errors of `body`.
func naming<Result>(_ file: String, _ body: () throws(PlanError) -> Result) throws(PlanError)
  -> Result
{
  do {
    return try body()
  } catch {
    var named = error
    named.file = named.file ?? file
    throw named
  }
}
