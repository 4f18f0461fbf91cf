import Evaluation
import Files
import Foundation
import Reports
import Testing

/// Numbers with their recipes beside each other.
@Suite struct EvaluationTableTests {
  private func set(
    fid: Double, count: Int, guidance: String = "1.5", reference: String = "r0",
    average: String = "as in the file"
  ) throws -> EvaluationReport {
    try JSONDecoder.snakeCase.decode(
      EvaluationReport.self,
      from: Data(
        """
        {"kind": "set", "frechet_distance": \(fid), "spatial_frechet_distance": 4.6, "notes": [],
         "frechet_interval": [2.1, 2.4], "kernel_distance": 0.01, "kernel_distance_deviation": 0.002,
         "provenance": {"network": "Inception", "network_digest": "n0", "resize": "bilinear", "notes": ["few"],
          "version": "1", "reference": {"path": "/r.npz", "digest": "\(reference)", "count": 0},
          "samples": {"path": "/s.npz", "digest": "d\(count)", "count": \(count),
           "description": {"guidance": "\(guidance)", "steps": "250", "seed": "0",
            "weights_average": "\(average)", "model_digest": "m\(count)"}}}}
        """.utf8))
  }

  @Test func oneEvaluationShowsNumbersAndRecipe() throws {
    let report = try set(fid: 2.27, count: 50_000)
    let table = try EvaluationTable([("a", report)])
    #expect(table.mismatches.isEmpty && table.notes == ["few"])
    let lines = table.lines.map {
      $0.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
    }
    for line in [
      "FID 2.27 (90 %: 2.1 to 2.4)", "sFID 4.6", "KID 0.01 ± 0.002", "samples count 50000",
      "samples guidance 1.5", "reference sha256 r0", "network sha256 n0", "resize bilinear",
      "samples model digest m50000", "note: few",
    ] { #expect(lines.contains(line), "\(line) in \(lines)") }
    // The format is read as it is written.
    let text = try JSONEncoder.sorted(snakeCase: true).encode(report)
    let again = try JSONDecoder.snakeCase.decode(EvaluationReport.self, from: text)
    #expect(again.provenance == report.provenance)
    #expect(try JSONEncoder.sorted(snakeCase: true).encode(again) == text)
    #expect(String(decoding: text, as: UTF8.self).contains(#""guidance":1.5"#))
  }

  @Test func whatMustBeEqualIsNamedWhereItDiffers() throws {
    let same = try EvaluationTable([
      ("a", try set(fid: 2.27, count: 50_000)), ("b", try set(fid: 3.1, count: 50_000)),
    ])
    #expect(same.mismatches.isEmpty && same.headings == ["", "a", "b"])
    #expect(same.rows.first == ["FID", "2.27 (90 %: 2.1 to 2.4)", "3.1 (90 %: 2.1 to 2.4)"])
    let other = try EvaluationTable([
      ("a", try set(fid: 2.27, count: 50_000)),
      ("b", try set(fid: 3.1, count: 2000, guidance: "2", reference: "r1")),
    ])
    #expect(
      other.mismatches == [
        "the numbers do not compare as they are: reference sha256 is r0 in a, r1 in b",
        "the numbers do not compare as they are: samples count is 50000 in a, 2000 in b",
        "the numbers do not compare as they are: samples guidance is 1.5 in a, 2 in b",
      ])
  }

  /// Stages are compared by what each leaves; averages of a file with other weights of it are not.
  @Test func stagesCompare() throws {
    func mismatches(_ averages: String...) throws -> [String] {
      try EvaluationTable(
        averages.map { ($0, try set(fid: 1, count: 200, average: $0)) }
      ).mismatches
    }
    #expect(
      try mismatches(
        "operators as trained, the rest as in the model", "EMA of the finetuning",
        "operators fresh (untrained)"
      ).isEmpty)
    #expect(try mismatches("EMA of the checkpoint", "as in the file").count == 1)
  }

  @Test func numbersOfOtherKindsAreRefused() throws {
    let paired = try JSONDecoder.snakeCase.decode(
      EvaluationReport.self,
      from: Data(
        """
        {"kind": "paired", "latents": {"value": 0.2, "standard_error": 0.01}, "samples": 20,
         "provenance": {"network": "none", "notes": [], "version": "1",
          "samples": {"path": "g", "digest": "d", "count": 20}}}
        """.utf8))
    let error = #expect(throws: FileError.self) {
      try EvaluationTable([("a", try set(fid: 1, count: 9)), ("b", paired)])
    }
    #expect(error?.message.hasPrefix("b: holds numbers of another kind than a") == true)
    let text = try EvaluationTable([("b", paired)]).lines.joined()
    #expect(text.contains("0.2 ± 0.01"))
  }
}
