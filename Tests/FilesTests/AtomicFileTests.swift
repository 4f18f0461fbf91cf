import Checkpoints
import Files
import Foundation
import TestSupport
import Synchronization
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

  /// What a link names is replaced, and both keep what they are.
  @Test func savesThroughLinks() throws {
    let scratch = try Scratch()
    try FileManager.default.createDirectory(
      atPath: scratch.file("far"), withIntermediateDirectories: true)
    let target = try scratch.put([7], "far/plan.json")
    chmod(target, 0o600)
    let (link, second) = (scratch.file("link.json"), scratch.file("second.json"))
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: "far/plan.json")
    try FileManager.default.createSymbolicLink(atPath: second, withDestinationPath: link)
    try AtomicFile.write(Data([8, 9]), to: second)
    #expect(try Data(contentsOf: URL(fileURLWithPath: target)) == Data([8, 9]))
    for path in [link, second] {
      #expect((try? FileManager.default.destinationOfSymbolicLink(atPath: path)) != nil)
    }
    var status = stat()
    #expect(stat(target, &status) == 0 && status.st_mode & 0o777 == 0o600)
    // One that leads nowhere yet, and one that leads to itself.
    let dangling = scratch.file("dangling.json")
    try FileManager.default.createSymbolicLink(
      atPath: dangling, withDestinationPath: scratch.file("far/new.json"))
    try AtomicFile.write(Data([1]), to: dangling)
    #expect(try Data(contentsOf: URL(fileURLWithPath: scratch.file("far/new.json"))) == Data([1]))
    let loop = scratch.file("loop.json")
    try FileManager.default.createSymbolicLink(atPath: loop, withDestinationPath: "loop.json")
    #expect(throws: FileError.self) { try AtomicFile.write(Data(), to: loop) }
    // Files of a run directory never follow one.
    try AtomicFile.write(Data([5]), to: link, followingLinks: false)
    #expect(try Data(contentsOf: URL(fileURLWithPath: target)) == Data([8, 9]))
    #expect((try? FileManager.default.destinationOfSymbolicLink(atPath: link)) == nil)
  }

  @Test func permissionsAreKept() throws {
    let scratch = try Scratch()
    let path = try scratch.put([7], "plan.json")
    for mode: mode_t in [0o600, 0o640, 0o666, 0o755] {
      chmod(path, mode)
      try AtomicFile.write(Data([1]), to: path)
      var status = stat()
      #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == mode)
    }
  }

  /// What killed writers left goes with the next save of the same file; what is being written stays.
  @Test func leftoversAreSwept() throws {
    let scratch = try Scratch()
    let draft = try DraftFile(for: scratch.file("plan.json"))
    let names = try scratch.listing()
    #expect(names.count == 1 && names.allSatisfy(AtomicFile.isTemporary))
    for name in [".plan.json.1.x.tmp", ".plan.json.y.tmp", ".other.json.z.tmp"] {
      _ = try scratch.put([1], name)
    }
    try AtomicFile.write(Data(), to: scratch.file("plan.json"))
    #expect(try scratch.listing() == (names + [".other.json.z.tmp", "plan.json"]).sorted())
    AtomicFile.removeAbandoned(in: scratch.path)
    #expect(try scratch.listing() == (names + ["plan.json"]).sorted())
    draft.discard()
    #expect(try scratch.listing() == ["plan.json"])
  }

  /// Every operation on the disk fails in turn: the old file stays, and nothing else.
  @Test func everyFailureLeavesTheOldFile() throws {
    let scratch = try Scratch()
    let path = try scratch.put([7], "file")
    for failing in 1...5 {
      let count = Mutex(0)
      let fault: @Sendable (String) -> Int32 = { _ in
        count.withLock {
          $0 += 1
          return $0 == failing ? EIO : 0
        }
      }
      let hasFailed = AtomicFile.failure.withValue(fault) {
        (try? AtomicFile.write(Data([8]), to: path)) == nil
      }
      #expect(hasFailed == (failing < 5))
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data([hasFailed ? 7 : 8]))
      #expect(try scratch.listing() == ["file"])
    }
  }

  @Test func whatWasMadeTogetherGoesTogether() throws {
    struct Interruption: Error {}
    let scratch = try Scratch()
    let old = try scratch.put([7], "old")
    #expect(throws: Interruption.self) {
      try AtomicFile.together {
        try AtomicFile.makeDirectory(scratch.file("a/b"))
        try AtomicFile.write(Data([1]), to: scratch.file("a/b/c"))
        try AtomicFile.write(Data([8]), to: old)
        throw Interruption()
      }
    }
    #expect(try scratch.listing() == ["old"])
    try AtomicFile.together { try AtomicFile.makeDirectory(scratch.file("a")) }
    #expect(try scratch.listing() == ["a", "old"])
  }

  @Test func absolutePaths() {
    let here = FileManager.default.currentDirectoryPath
    #expect(AtomicFile.absolute("/a/./b/../c/") == "/a/c")
    #expect(AtomicFile.absolute("x/y") == (here == "/" ? "" : here) + "/x/y")
    #expect(AtomicFile.absolute("~", home: "/home/me") == "/home/me")
    #expect(AtomicFile.absolute("~/runs", home: "/home/me/") == "/home/me/runs")
    #expect(AtomicFile.absolute("~other/runs", home: "/home/me") == "\(here)/~other/runs")
    #expect(AtomicFile.absolute("/..") == "/")
    // In files `~` is a name.
    #expect(AtomicFile.resolved("~/x", in: "/f") == "/f/~/x")
    #expect(AtomicFile.resolved("../x/./y", in: "/f/g") == "/f/x/y")
    #expect(AtomicFile.resolved("/x", in: "/f") == "/x")
    #expect(AtomicFile.resolved("x", in: "f") == "\(here == "/" ? "" : here)/f/x")
    #expect(AtomicFile.stem(of: "/a.b/plan.v2.json") == "plan.v2")
    #expect(AtomicFile.stem(of: ".hidden") == ".hidden")
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
