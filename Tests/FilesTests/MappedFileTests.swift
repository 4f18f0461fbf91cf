import Files
import Foundation
import TestSupport
import Testing

/// Files that change while they are mapped, and locks.
@Suite struct MappedFileTests {
  /// In a process of its own, which stays marked.
  @Test func truncationIsAnError() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch()
      let path = try scratch.put([UInt8](repeating: 7, count: 100_000))
      let file = try MappedFile(path: path)
      let other = try MappedFile(path: try scratch.put([1, 2], "other"))
      try MappedFile.requireUnchanged()
      truncate(path, 5000)
      #expect(throws: FileError.self) { try MappedFile.requireUnchanged() }
      try MappedFile.requireIntact()
      // What is still there is read; what is lost is zeros, not the end of the process.
      #expect(file.bytes[4999] == 7)
      #expect(file.bytes[99_999] == 0 && file.bytes[50_000] == 0)
      let error = #expect(throws: FileError.self) { try MappedFile.requireIntact() }
      #expect(
        error?.message
          == "\(path): was truncated by another program or could not be read while it was in use;"
          + " restore the file, or start again with its new content")
      #expect(other.bytes[1] == 2)
      // The same for many at once, in any order.
      let many = try (0..<50).map {
        try MappedFile(path: try scratch.put([UInt8](repeating: 1, count: 9000), "\($0)"))
      }
      for index in 0..<50 { truncate(scratch.file("\(index)"), 0) }
      for file in many.shuffled() { #expect(file.bytes[8999] == 0 && file.bytes[0] == 0) }
    }
  }

  /// A fault that is none of a mapped file still ends the process.
  @Test func otherBusErrorsAreFatal() async {
    await #expect(processExitsWith: .signal(SIGBUS)) {
      let scratch = try Scratch()
      let path = try scratch.put([UInt8](repeating: 7, count: 100_000))
      let file = try MappedFile(path: path)
      raise(SIGBUS)
      withExtendedLifetime(file) {}
    }
  }

  @Test func rewritingIsAnError() async {
    await #expect(processExitsWith: .success) {
      let scratch = try Scratch()
      let path = try scratch.put([UInt8](repeating: 7, count: 100))
      var file: MappedFile? = try MappedFile(path: path)
      // Another file under the same name leaves the old one as it was.
      try AtomicFile.write(Data([1, 2, 3]), to: path)
      try MappedFile.requireUnchanged()
      #expect(file?.bytes[99] == 7)
      file = try MappedFile(path: path)
      utimes(path, nil)
      let descriptor = open(path, O_WRONLY)
      pwrite(descriptor, [9], 1, 0)
      close(descriptor)
      let error = #expect(throws: FileError.self) { try MappedFile.requireUnchanged() }
      #expect(error?.message.hasPrefix("\(path): was written to by another program") == true)
      file = nil
      try MappedFile.requireUnchanged()
    }
  }

  @Test func locksExcludeAndPass() throws {
    let scratch = try Scratch()
    let path = scratch.file("lock")
    #expect(!FileLock.isHeld(path))
    var lock = try FileLock.take(path)
    #expect(lock != nil && FileLock.isHeld(path))
    #expect(try FileLock.take(path) == nil)
    // Whoever inherits the descriptor has the lock, also when the one who gave it is gone.
    // Programs that other tests start meanwhile do not.
    let inherited = fcntl(try #require(lock).descriptor, F_DUPFD_CLOEXEC, 0)
    lock = nil
    #expect(FileLock.isHeld(path))
    var heir = try FileLock.take(path, inherited: inherited)
    #expect(heir?.descriptor == inherited)
    heir = nil
    // Between its start and its image a program has all descriptors.
    for _ in 0..<1000 where FileLock.isHeld(path) { usleep(1000) }
    #expect(!FileLock.isHeld(path))
    // A number that names something else is not taken over.
    heir = try FileLock.take(path, inherited: 0)
    #expect(heir != nil && heir?.descriptor != 0)
    let link = scratch.file("link")
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: "victim")
    #expect(throws: FileError.self) { _ = try FileLock.take(link) }
    #expect(try scratch.listing() == ["link", "lock"])
  }
}
