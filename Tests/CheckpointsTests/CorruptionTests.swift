import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

/// Damages small files in every place: whatever the bytes, opening ends with tensors that fit or with
/// an error.
@Suite struct CorruptionTests {
  /// Opens a damaged file and reads all of it; what it holds must stay in proportion to its size.
  private func open(_ path: String, size: Int) -> Bool {
    do throws(FileError) {
      let file = try Checkpoint.open(path)
      var elements = 0
      for name in file.names {
        guard let entry = file.entry(name) else { return false }
        guard entry.byteCount <= 16 * size else {
          Issue.record("\(path): \(name) has \(entry.byteCount) bytes")
          return false
        }
        elements += try file.floats(name).count
      }
      #expect(file.names.count <= size && file.values.count <= size)
      return true
    } catch {
      #expect(!error.message.contains("\n"))
      return false
    }
  }

  /// Every byte changed in several ways, then every truncation; gives how many still opened.
  private func damage(_ bytes: [UInt8], _ name: String, in scratch: Scratch) throws -> Int {
    let path = try scratch.put(bytes, name)
    #expect(open(path, size: bytes.count), "\(name)")
    let descriptor = Foundation.open(path, O_RDWR | O_CLOEXEC)
    defer { close(descriptor) }
    try #require(descriptor >= 0)
    var opened = 0
    func put(_ byte: UInt8, at place: Int) {
      var byte = byte
      #expect(pwrite(descriptor, &byte, 1, off_t(place)) == 1)
    }
    for (place, byte) in bytes.enumerated() {
      for other in [byte ^ 1, byte ^ 0x80, byte &+ 1, 0xFF] where other != byte {
        put(other, at: place)
        if open(path, size: bytes.count) { opened += 1 }
      }
      put(byte, at: place)
    }
    for length in (0..<bytes.count).reversed() {
      #expect(ftruncate(descriptor, off_t(length)) == 0)
      #expect(!open(path, size: length), "\(name) cut to \(length) bytes")
    }
    return opened
  }

  @Test(
    .enabled(if: hasGoldens, "no fixtures; set ESPALIER_GOLDENS to their folder"),
    arguments: [
      "plain_bf16.pt", "pyzip_control.pt", "shared_storage.pt", "dtypes_misc.pt", "legacy_f32.pt",
      "legacy_shared.pt", "ordereddict_metadata.pt", "parameter_objects.pt", "full_checkpoint.pt",
      "st_ok.safetensors",
    ])
  func damagedFixturesNeverCrash(name: String) throws {
    let scratch = try Scratch()
    let bytes = [UInt8](try Data(contentsOf: URL(filePath: "\(goldens)/pt_formats/\(name)")))
    _ = try damage(bytes, name, in: scratch)
  }

  @Test(arguments: NumpySample.all)
  func damagedNumpyFilesNeverCrash(sample: NumpySample) throws {
    let scratch = try Scratch()
    _ = try damage(sample.bytes, sample.name, in: scratch)
  }

  /// The content of an archive is under checksums, so no change of it goes unnoticed.
  @Test(.enabled(if: hasGoldens, "no fixtures; set ESPALIER_GOLDENS to their folder"))
  func noChangedElementGoesUnnoticed() throws {
    let scratch = try Scratch()
    let bytes = [UInt8](try Data(contentsOf: URL(filePath: "\(goldens)/pt_formats/plain_f32.pt")))
    for place in stride(from: 960, to: 960 + 432, by: 7) {
      var damaged = bytes
      damaged[place] ^= 4
      #expect(!open(try scratch.put(damaged), size: bytes.count), "byte \(place)")
    }
  }
}
