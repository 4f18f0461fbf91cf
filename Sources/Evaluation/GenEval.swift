import Files
import Foundation

/// GenEval, a benchmark of composition in text-to-image models (arXiv 2310.11513): prompts, the folder that its
/// detector reads, and scores from detected objects.
package struct GenEval {
  /// A prompt with what its images must show.
  package struct Prompt: Decodable, Sendable {
    /// Objects of one class.
    package struct Clause: Decodable, Sendable {
      package let object: String
      package let count: Int
      package let color: String?
      /// Relation to the objects of an earlier clause, and its index.
      package let position: (relation: String, target: Int)?

      private enum CodingKeys: String, CodingKey {
        case object = "class"
        case count, color, position
      }

      package init(from decoder: any Decoder) throws {
        let keys = try decoder.container(keyedBy: CodingKeys.self)
        object = try keys.decode(String.self, forKey: .object)
        count = try keys.decode(Int.self, forKey: .count)
        color = try keys.decodeIfPresent(String.self, forKey: .color)
        guard keys.contains(.position) else {
          position = nil
          return
        }
        var list = try keys.nestedUnkeyedContainer(forKey: .position)
        position = (try list.decode(String.self), try list.decode(Int.self))
      }
    }

    package let tag: String
    package let prompt: String
    package let include: [Clause]
    package let exclude: [Clause]?
  }

  /// The prompts in their order.
  package let prompts: [Prompt]
  /// The line of each prompt, as in the file.
  private let lines: [String]
  private static let sizeLimit = 16 << 20

  /// Reads a file of JSON lines, as `evaluation_metadata.jsonl`.
  ///
  /// - Throws: `FileError` that names the line at fault.
  package init(path: String) throws(FileError) {
    let text = String(decoding: try AtomicFile.read(path, limit: Self.sizeLimit), as: UTF8.self)
    var (prompts, lines): ([Prompt], [String]) = ([], [])
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
    {
      let line = line.trimmingCharacters(in: .whitespacesAndNewlines)
      if line.isEmpty { continue }
      guard let prompt = try? JSONDecoder().decode(Prompt.self, from: Data(line.utf8)),
        prompt.include.enumerated().allSatisfy({ place, clause in
          clause.count > 0 && (clause.position.map { (0..<place).contains($0.target) } ?? true)
        })
      else {
        throw FileError(
          "\(path): line \(index + 1) is no prompt of GenEval, an object with \"tag\", \"include\" and"
            + " \"prompt\"; fetch the file again")
      }
      prompts.append(prompt)
      lines.append(line)
    }
    guard !prompts.isEmpty else {
      throw FileError("\(path): holds no prompt; fetch the file again")
    }
    (self.prompts, self.lines) = (prompts, lines)
  }

  /// Folder of a prompt, below that of all.
  package static func folder(_ index: Int) -> String { padded(index, 5) }

  /// Path of an image below the folder of its prompt.
  package static func image(_ index: Int) -> String { "samples/\(padded(index, 4)).png" }

  private static func padded(_ number: Int, _ digits: Int) -> String {
    let text = String(number)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }

  /// Name and content of the description in the folder of a prompt.
  package func description(of index: Int) -> (name: String, text: String) {
    ("metadata.jsonl", lines[index])
  }

  // MARK: - Scores

  /// Objects that a detector found in one image.
  package struct Detection: Decodable, Sendable {
    package let filename: String
    package let promptIndex: Int
    /// Boxes (left, top, right, bottom, confidence) by class.
    package let boxes: [String: [[Double]]]
    /// Colours of the kept boxes by class, best box first.
    package let colors: [String: [String]]

    private enum CodingKeys: String, CodingKey {
      case filename, boxes, colors
      case promptIndex = "prompt_index"
    }
  }

  /// Scores of all images.
  package struct Scores: Encodable, Sendable {
    /// Whether each image shows what its prompt says.
    package let correct: [Bool]
    /// Share of correct images by task.
    package let tasks: [String: Double]
    /// Mean of the tasks' scores.
    package let overall: Double
    /// Share of correct images, and of prompts with a correct image.
    package let images, prompts: Double
  }

  private static let mostBoxes = 16

  /// Judges the detections of all images.
  ///
  /// - Throws: `FileError` for a detection of an unknown prompt or a box without five numbers.
  package func scores(_ detections: [Detection]) throws(FileError) -> Scores {
    var correct: [Bool] = []
    var byTask: [String: [Bool]] = [:]
    var byPrompt: [Int: Bool] = [:]
    for detection in detections {
      guard prompts.indices.contains(detection.promptIndex),
        detection.boxes.values.allSatisfy({
          $0.allSatisfy { $0.count == 5 && $0.allSatisfy(\.isFinite) }
        })
      else {
        throw FileError(
          "\(detection.filename): its prompt is unknown, or a box is not left, top, right, bottom, confidence;"
            + " run the detector again")
      }
      let prompt = prompts[detection.promptIndex]
      let verdict = Self.isCorrect(prompt, detection)
      correct.append(verdict)
      byTask[prompt.tag, default: []].append(verdict)
      byPrompt[detection.promptIndex] = verdict || byPrompt[detection.promptIndex] ?? false
    }
    func share(_ verdicts: some Collection<Bool>) -> Double {
      Double(verdicts.count { $0 }) / Double(max(1, verdicts.count))
    }
    let tasks = byTask.mapValues { share($0) }
    return Scores(
      correct: correct, tasks: tasks,
      overall: tasks.values.sorted().reduce(0, +) / Double(max(1, tasks.count)),
      images: share(correct),
      prompts: share(Array(byPrompt.values)))
  }

  private static func isCorrect(_ prompt: Prompt, _ detection: Detection) -> Bool {
    let threshold = prompt.tag == "counting" ? 0.9 : 0.3
    let kept = detection.boxes.mapValues { boxes in
      Array(
        boxes.filter { $0[4] > threshold }.sorted { $0[4] > $1[4] }.prefix(mostBoxes))
    }
    // Objects of each clause; nil where it failed.
    var groups: [[[Double]]?] = []
    for clause in prompt.include {
      let found = Array((kept[clause.object] ?? []).prefix(clause.count))
      var holds = found.count == clause.count
      if holds, let color = clause.color {
        let colors = (detection.colors[clause.object] ?? []).prefix(clause.count)
        holds = colors.count { $0 == color } >= clause.count
      }
      if holds, let position = clause.position {
        let targets = groups[position.target]
        holds =
          targets?.allSatisfy { target in
            found.allSatisfy { relations(of: $0, to: target).contains(position.relation) }
          } ?? false
      }
      groups.append(holds ? found : nil)
    }
    return groups.allSatisfy { $0 != nil }
      && (prompt.exclude ?? []).allSatisfy { (kept[$0.object] ?? []).count < $0.count }
  }

  /// Relations of two boxes by their centres; a tenth of their sizes counts as no offset.
  private static func relations(of box: [Double], to other: [Double]) -> Set<String> {
    let offset: [Double] = (0..<2).map { axis in
      let (center, otherCenter) = (box[axis] + box[axis + 2], other[axis] + other[axis + 2])
      return (center - otherCenter) / 2
    }
    let shrunk: [Double] = (0..<2).map { axis in
      let sizes = abs(box[axis + 2] - box[axis]) + abs(other[axis + 2] - other[axis])
      let rest = max(0, abs(offset[axis]) - 0.1 * sizes)
      return offset[axis] < 0 ? -rest : rest
    }
    if shrunk.allSatisfy({ abs($0) < 1e-3 }) { return [] }
    let length = (offset[0] * offset[0] + offset[1] * offset[1]).squareRoot()
    let (x, y) = (shrunk[0] / length, shrunk[1] / length)
    var names: Set<String> = []
    if abs(x) > 0.5 { names.insert(x < 0 ? "left of" : "right of") }
    if abs(y) > 0.5 { names.insert(y < 0 ? "above" : "below") }
    return names
  }
}
