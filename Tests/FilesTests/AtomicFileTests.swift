import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

@Suite struct AtomicFileTests {
  @Test func replacesWholeFiles() throws {
    let scratch = try Scratch()
    let path = scratch.file("plan.json")
    try AtomicFile.write(Data("first, and long".utf8), to: path)
    try AtomicFile.write(Data("second".utf8), to: path)
    #expect(try String(contentsOfFile: path, encoding: .utf8) == "second")
    #expect(try scratch.listing() == ["plan.json"])
  }

  @Test func missingDirectory() throws {
    let scratch = try Scratch()
    let path = scratch.file("absent/plan.json")
    let error = #expect(throws: FileError.self) { try AtomicFile.write(Data(), to: path) }
    #expect(error?.message.contains("does not exist") == true)
    #expect(error?.message.contains("mkdir -p \(scratch.path)/absent") == true)
    #expect(try scratch.listing().isEmpty)
  }

  /// `/proc` exists but answers as if it did not.
  @Test func directoryThatRefusesFiles() throws {
    let error = #expect(throws: FileError.self) {
      try AtomicFile.write(Data(), to: "/proc/plan.json")
    }
    #expect(error?.message.contains("does not exist") == false)
  }

  @Test func directoryIsAFile() throws {
    let scratch = try Scratch()
    let path = try scratch.put([1], "file") + "/plan.json"
    let error = #expect(throws: FileError.self) { try AtomicFile.write(Data(), to: path) }
    #expect(error?.message.contains("is not a directory") == true)
  }

  @Test func destinationIsADirectoryOrDevice() throws {
    let scratch = try Scratch()
    let error = #expect(throws: FileError.self) {
      try AtomicFile.write(Data(), to: scratch.path)
    }
    #expect(error?.message.contains("is a directory") == true)
    let device = #expect(throws: FileError.self) {
      try AtomicFile.write(Data([1]), to: "/dev/full")
    }
    #expect(device?.message.contains("not a regular file") == true)
    #expect(throws: FileError.self) { try AtomicFile.write(Data(), to: scratch.path + "/") }
  }

  /// In a process of its own, because it gives up its rights.
  @Test func readOnlyDirectoryAndFile() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch()
      let kept = try scratch.put([7], "kept")
      chmod(kept, 0o444)
      chmod(scratch.path, 0o555)
      if getuid() == 0 { try #require(seteuid(65534) == 0) }
      let error = #expect(throws: FileError.self) {
        try AtomicFile.write(Data([1]), to: scratch.file("new"))
      }
      #expect(error?.message.contains("\(scratch.path) is read-only") == true)
      let file = #expect(throws: FileError.self) {
        try AtomicFile.write(Data([1]), to: kept)
      }
      #expect(file?.message.contains("the file is read-only") == true)
      if getuid() == 0 { seteuid(0) }
      chmod(scratch.path, 0o755)
      #expect(try scratch.listing() == ["kept"])
    }
  }

  /// In a process of its own, because the limit holds for all of it.
  @Test func fileSizeLimit() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch()
      let path = try scratch.put([7], "model.safetensors")
      signal(SIGXFSZ, SIG_IGN)
      var limit = rlimit(rlim_cur: 4096, rlim_max: rlim_t.max)
      try #require(getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
      limit.rlim_cur = 4096
      try #require(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
      let item = SafetensorsWriter.Item(
        name: "w", shape: [4096], floats: [Float](repeating: 1, count: 4096))
      let error = #expect(throws: FileError.self) {
        try SafetensorsWriter.write([item], metadata: [:], to: path)
      }
      #expect(error?.message.contains("file size limit") == true)
      #expect(try scratch.listing() == ["model.safetensors"])
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data([7]))
    }
  }
}
