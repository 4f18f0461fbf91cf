import Checkpoints
import Foundation
import Testing

/// Everything else that can be wrong: one sentence, exit code 1 or 2, nothing written.
@Suite struct BadInputTests {
  @Test func missingFiles() throws {
    let scratch = try Scratch()
    for command in [
      ["sample", "no.safetensors", "--output", "x.png"], ["evaluate", "no.safetensors"],
      ["analyze", "no.safetensors"], ["inspect", "no.safetensors"],
      ["plan", "new", "p.json", "--model", "no.safetensors"],
    ] {
      try scratch.expectRefusal(command, mentions: ["no.safetensors: ", "no such file"])
    }
    for command in [
      ["plan", "set", "no.json", "--steps", "3"], ["plan", "show", "no.json"],
      ["plan", "validate", "no.json"], ["distill", "no.json"],
      ["explore", "demo", "--plan", "no.json"],
    ] {
      try scratch.expectRefusal(command, mentions: ["no.json: no such file"])
    }
    try scratch.expectRefusal(
      ["distil"], code: 2, mentions: ["'distil' is neither a command nor a model file"])
    try scratch.expectRefusal(
      ["pretrain", "no.json", "--output", "out"], mentions: ["no.json: no such file"])
  }

  @Test func truncatedModels() throws {
    let scratch = try Scratch()
    let whole = try scratch.bytes(scratch.tinyModel())
    for (index, length) in [0, 5, 300, whole.count / 2, whole.count - 1].enumerated() {
      let name = "cut\(index).safetensors"
      try whole.prefix(length).write(to: URL(fileURLWithPath: "\(scratch.path)/\(name)"))
      for command in [
        ["inspect", name], ["sample", name, "--output", "x.png"],
        ["plan", "new", "p.json", "--model", name],
      ] {
        try scratch.expectRefusal(command, mentions: [name])
      }
    }
  }

  /// A pipe, a device and a directory in the place of any input are refused at once, not waited for.
  @Test(arguments: ["fifo", "/dev/zero", "/dev/tty0", "folder"])
  func inputsThatAreNoFiles(input: String) throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    if input == "fifo" { try #require(mkfifo("\(scratch.path)/fifo", 0o600) == 0) }
    if input == "folder" {
      try FileManager.default.createDirectory(
        atPath: "\(scratch.path)/folder", withIntermediateDirectories: true)
    }
    for command in [
      ["inspect", input], ["sample", input, "--output", "x.png"], ["evaluate", input],
      ["analyze", input], ["convert", input, "--to", "y.pt"],
      ["sample", "model.safetensors", "--noise", input, "--latents", "x.npy"],
      ["sample", "model.safetensors", "--plan", input, "--latents", "x.npy"],
      [
        "sample", "model.safetensors", "--plan", "plan.json", "--weights", input, "--latents",
        "x.npy",
      ],
      ["plan", "show", input], ["plan", "validate", input],
      ["plan", "import", input, "p.json", "--model", "model.safetensors"],
      ["plan", "new", "p.json", "--model", input], ["distill", input],
      ["pretrain", input, "--output", "out"],
    ] {
      try scratch.expectRefusal(command, mentions: [input])
    }
  }

  @Test func startNoiseThatCannotBeUsed() throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    func complaint(_ shape: [Int], _ floats: [Float], mentions: [String]) throws {
      try NumpyWriter<Float>.write(to: "\(scratch.path)/noise.npy", shape: shape) {
        try $0?.add(floats)
      }
      try scratch.expectRefusal(
        ["sample", "model.safetensors", "--noise", "noise.npy", "--latents", "x.npy"],
        mentions: mentions)
    }
    let shape = [1, 4, 16, 16]
    let header =
      #"{"noise": {"dtype": "BOOL", "shape": [1, 4, 16, 16], "data_offsets": [0, 1024]}}"#
    let bytes =
      Data([UInt8(header.utf8.count)]) + Data(count: 7) + Data(header.utf8) + Data(count: 1024)
    try bytes.write(to: URL(filePath: "\(scratch.path)/flags.safetensors"))
    try scratch.expectRefusal(
      ["sample", "model.safetensors", "--noise", "flags.safetensors", "--latents", "x.npy"],
      mentions: ["the noise is of type BOOL, expected floating point"])
    var floats = [Float](repeating: 0, count: 1024)
    floats[274] = .nan
    try complaint([0, 4, 16, 16], [], mentions: ["noise.npy: ", "for at least one image"])
    try complaint(
      shape, floats, mentions: ["the noise of sample 0", "channel 1, row 1, column 2"])
  }

  @Test func modelsOfOtherKinds() throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    try scratch.expectRefusal(
      ["sample", "autoencoder.safetensors", "--output", "x.png"],
      mentions: ["autoencoder.safetensors: ", "DiT"])
    let other = try scratch.tinyModel("other.safetensors", classNames: ["cat", "dog", "owl"])
    try scratch.expectRefusal(
      ["evaluate", other], mentions: [other, "its classes are not the procedural shapes"])
    try FileManager.default.removeItem(atPath: "\(scratch.path)/autoencoder.safetensors")
    try scratch.expectRefusal(
      ["sample", "model.safetensors", "--output", "x.png"],
      mentions: ["model.safetensors: no 'autoencoder.safetensors' beside it"])
  }

  /// A graft is looked at as it is, but grafted no further.
  @Test func graftsAreNotGrafted() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let convert = try scratch.espalier(
      "convert", "model.safetensors", "--plan", "plan.json", "--fresh", "--to", "graft.safetensors")
    #expect(convert.code == 0, "\(convert.complaint)")
    for command in [
      ["plan", "new", "p.json", "--model", "graft.safetensors"],
      ["sample", "graft.safetensors", "--plan", "plan.json", "--output", "x.png"],
    ] {
      try scratch.expectRefusal(
        command,
        mentions: [
          "graft.safetensors: expected a pretrained model, found a graft of",
          "make one plan of all changes for \(scratch.path)/model.safetensors",
        ])
    }
    // The explorer shows it as a plan of its teacher.
    try scratch.expectRefusal(
      ["explore", "graft.safetensors"], mentions: ["needs a terminal"],
      environment: ["TERM": "xterm"])
    for command in [
      ["sample", "graft.safetensors", "--npz", "x.npz", "--count", "1", "--steps", "1"],
      ["analyze", "graft.safetensors", "--samples", "1"],
    ] {
      let outcome = try scratch.run(command)
      #expect(outcome.code == 0, "\(outcome.complaint)")
    }
  }

  @Test func impossibleNumbers() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    for classes in ["99", "10", "-1", ",", "1,,2", "disc"] {
      try scratch.expectRefusal(
        ["sample", model, "--output", "x.png", "--classes=\(classes)"], code: 2,
        mentions: ["--classes", "0 to 9", "espalier sample --help"])
    }
    for command in [
      ["sample", model, "--output", "x.png", "--classes", ""],
      ["sample", model, "--output", "x.png", "--count", "0"],
      ["sample", model, "--output", "x.png", "--columns", "0"],
      ["sample", model, "--output", "x.png", "--steps", "0"],
      ["sample", model, "--output", "x.png", "--steps", "1001"],
      ["sample", model, "--output", "x.png", "--guidance", "nan"],
      ["sample", model, "--output", "x.png", "--sampler", "euler"],
      ["sample", model, "--output", "x.png", "--weights", "w.safetensors"],
      ["sample", model], ["evaluate", model, "--samples", "0"],
      ["analyze", model, "--samples", "0"], ["shapes", "--output", "x.png", "--count", "0"],
      ["shapes", "--output", "x", "--count", "9999999999999999"],
      ["shapes", "--output", "x.png", "--count", "10001"], ["bench", "--repeats", "0"],
      ["bench", "--repeats", "9223372036854775807"], ["bench", "--repeats", "-1"],
      ["bench", "--repeats", "0"], ["bench", "--work", "frob"], ["plan", "frob"],
      ["runs", "frob"], ["--frob"],
    ] {
      try scratch.expectRefusal(command, code: 2, mentions: ["--help'"])
    }
  }

  /// An empty value is no path, whatever the option; a note may be empty.
  @Test(arguments: [
    ["runs", "list", "--runs", ""], ["runs", "note", "x", "text", "--runs", ""],
    ["runs", "--runs="], ["sample", "demo", "--output", ""], [""],
    ["distill", ""], ["plan", "new", "p.json", "--model", ""], ["library", "list", "--library="],
  ])
  func emptyValues(arguments: [String]) throws {
    let scratch = try Scratch()
    let refused = try scratch.run(arguments)
    #expect(
      refused.code == 2 && refused.complaint.contains("is empty; give it a value"), "\(arguments)")
    #expect(!FileManager.default.fileExists(atPath: scratch.runs))
  }

  /// Jobs that cannot be done leave no run behind.
  @Test func impossibleJobsMakeNoRuns() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    _ = try scratch.tinyLatents()
    for arguments in [
      ["new", "p.json", "--model", model], ["new", "pair.json", "--model", model],
      ["set", "p.json", "--blocks", "0", "--operator", "swa"],
      ["parallel", "pair.json", "--blocks", "0-1"],
    ] {
      let made = try scratch.run(["plan"] + arguments)
      #expect(made.code == 0, "\(made.complaint)")
    }
    try scratch.put("no tensors", "junk.npz")
    try scratch.put(#"{"mlp": [{"name": "nosuch", "config": {}}]}"#, "candidates.json")
    try scratch.put(#"{"attention": [], "mlp": []}"#, "empty.json")
    try FileManager.default.createDirectory(
      atPath: scratch.path + "/none", withIntermediateDirectories: true)
    for (arguments, text) in [
      (["distill", "p.json", "--data", "none"], "holds no images in class folders"),
      (["distill", "p.json", "--data", "junk.npz"], "is no checkpoint"),
      (["finetune", "p.json", "--data", "junk.npz"], "is no checkpoint"),
      (["chain", "p.json", "--data", "none"], "holds no images in class folders"),
      (["search", model], "holds no operators that were scored"),
      (["search", model, "--keep", "99.attention"], "'99.attention' is to keep its operator"),
      (
        ["search", "p.json", "--keep", "0.attention", "--queue"],
        "but the plan has another one there"
      ),
      (["search", "pair.json"], "has parallel blocks"),
      (["library", "build", model, "--candidates", "absent.json"], "absent.json: no such file"),
      (["library", "build", model, "--candidates", "candidates.json"], "nosuch"),
      (
        ["library", "build", model, "--candidates", "empty.json"], "the candidates are empty lists"
      ),
    ] {
      let refused = try scratch.run(arguments)
      #expect(
        refused.code == 1 && refused.complaint.contains(text), "\(arguments): \(refused.complaint)")
      #expect(!FileManager.default.fileExists(atPath: scratch.runs), "\(arguments)")
    }
  }

  /// All ranks of a batch job are counted.
  @Test func enginesHaveTheRanksOfAllNodes() throws {
    let scratch = try Scratch()
    let folder = scratch.path + "/config/espalier"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try scratch.put(
      "far: {python: /bin/true, runs: /x, slurm: {nodes: 2, tasks_per_node: 8}}\n",
      "config/espalier/engines.yaml")
    let listed = try scratch.run(
      ["engines"], environment: ["XDG_CONFIG_HOME": scratch.path + "/config"])
    #expect(listed.output.contains("far  16 ranks, "), "\(listed.output)\(listed.complaint)")
  }

  @Test func unknownRuns() throws {
    let scratch = try Scratch()
    for verb in ["show", "follow", "pause", "resume", "cancel"] {
      try scratch.expectRefusal(
        ["runs", verb, "nope"], mentions: [scratch.runs, "no run begins or ends with 'nope'"])
      try scratch.expectRefusal(["runs", verb, "./nope"], mentions: ["nope", "no run"])
    }
    try scratch.expectRefusal(["parity", "nowhere"], code: 2, mentions: ["nowhere"])
    // A mistyped directory of runs is not made.
    try scratch.expectRefusal(
      ["runs", "drain", "--runs", "typo"], mentions: ["there is no directory", "typo"])
    #expect(!scratch.exists("typo"))
  }

  @Test func unwritablePlaces() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    try scratch.put("text", "file")
    // /proc takes no files from anybody, not even root; a file is no directory.
    for place in ["missing", "/proc", "file"] {
      for command in [
        ["plan", "new", "\(place)/p.json", "--model", "model.safetensors"],
        ["sample", "model.safetensors", "--output", "\(place)/x.png"],
        ["shapes", "--output", "\(place)/x.png", "--count", "1"],
      ] {
        try scratch.expectRefusal(command, mentions: ["\(place)/", "nothing was written"])
      }
    }
    try scratch.expectRefusal(
      ["distill", "plan.json", "--runs", "/proc/runs"], mentions: ["/proc/runs"])
    try scratch.expectRefusal(
      ["distill", "plan.json", "--runs", "file"], code: 2, mentions: ["file", "not a directory"])
    try scratch.expectRefusal(
      ["plan", "new", "plan.json", "--model", "model.safetensors"], code: 2,
      mentions: ["plan.json exists; add --force"])
  }

  @Test(.enabled(if: geteuid() != 0, "root writes everywhere")) func readOnlyDirectory() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    mkdir("\(scratch.path)/locked", 0o555)
    for command in [
      ["plan", "new", "locked/p.json", "--model", "model.safetensors"],
      ["sample", "model.safetensors", "--output", "locked/x.png"],
      ["distill", "plan.json", "--runs", "locked"],
    ] {
      try scratch.expectRefusal(command, mentions: ["locked", "read-only", "permissions"])
    }
  }

  /// `ulimit -f` counts blocks of 512 bytes and raises SIGXFSZ.
  @Test func fullDisk() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    for command in [
      ["plan", "new", "p.json", "--model", "model.safetensors"],
      ["plan", "set", "plan.json", "--steps", "5"],
      ["shapes", "--output", "x.png", "--count", "10"],
    ] {
      try scratch.expectRefusal(
        command, mentions: ["nothing was written", "ulimit -f"], prefix: "ulimit -f 1;")
    }
    let before = scratch.everything()
    let sample = try scratch.espalier(
      "sample", "model.safetensors", "--output", "x.png", "--count", "1", "--steps", "1",
      prefix: "ulimit -f 1;")
    #expect(sample.code == 1 && sample.output.isEmpty)
    #expect(sample.complaint.contains("Error: x.png: larger than the file size limit allows"))
    #expect(scratch.everything() == before)
    // The plan fits, the model does not: the run fails and says why.
    let outcome = try scratch.espalier("distill", "plan.json", prefix: "ulimit -f 60;")
    #expect(outcome.code == 1)
    #expect(outcome.complaint.contains("ulimit -f"), "\(outcome.complaint)")
    let runs: [RunRow] = try scratch.espalier("runs", "--json").json()
    #expect(runs.map(\.state) == ["failed"])
    let left = scratch.everything().keys.filter { $0.contains(".tmp") }
    #expect(left.isEmpty)
  }

  @Test func unreadableOutput() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let full = try scratch.espalier("plan", "show", "plan.json", prefix: "exec >/dev/full;")
    #expect(full.code == 1)
    #expect(full.complaint.hasPrefix("Error: standard output: "), "\(full.complaint)")
    #expect(full.complaint.split(separator: "\n").count == 1)
    // Nobody reads the complaint; the code tells.
    let mute = try scratch.espalier("plan", "show", "no.json", prefix: "exec 2>/dev/full;")
    #expect(mute.code == 1 && mute.output.isEmpty)
    let closed = try scratch.espalier("plan", "show", "plan.json", prefix: "exec 2>&- >&-;")
    #expect(closed.code == 1)
  }

  @Test func noTerminal() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    for command in [[], ["explore"], ["explore", model], [model]] {
      try scratch.expectRefusal(
        command, mentions: ["needs a terminal"], environment: ["TERM": "xterm"])
    }
  }

  @Test func unknownTerminal() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    let terminal = try PseudoTerminal()
    try scratch.expectRefusal(
      ["explore", model], mentions: ["TERM=frobozz", "unknown", "xterm-256color"],
      terminal: terminal.path, environment: ["TERM": "frobozz"])
    try scratch.expectRefusal(
      ["explore", model], mentions: ["TERM is not set"], terminal: terminal.path,
      environment: ["TERM": ""])
    try scratch.expectRefusal(
      ["explore", model], mentions: ["cannot position the cursor"], terminal: terminal.path,
      environment: ["TERM": "dumb"])
    #expect(terminal.received.isEmpty, "the terminal was written to before it was known")
  }

  @Test func helpAndVersion() throws {
    let scratch = try Scratch()
    let commands = [
      "", "explore", "plan", "plan new", "plan set", "plan show", "plan validate",
      "plan operators", "distill", "sample", "evaluate", "analyze", "runs", "runs list",
      "runs show", "runs follow",
      "runs pause", "runs resume", "runs cancel", "inspect", "convert", "pretrain", "parity",
      "shapes",
    ]
    for command in commands {
      let help = try scratch.run(command.split(separator: " ").map(String.init) + ["--help"])
      #expect(help.code == 0 && help.complaint.isEmpty)
      #expect(help.output.contains("USAGE: espalier"), "\(command)")
      #expect(help.output.contains("OVERVIEW: "), "\(command)")
    }
    for command in commands where !["", "explore", "plan", "runs", "shapes"].contains(command) {
      let help = try scratch.run(command.split(separator: " ").map(String.init) + ["--help"])
      #expect(help.output.contains("--json"), "\(command) lacks --json")
    }
    let version = try scratch.espalier("--version")
    #expect(version.code == 0 && version.output.split(separator: ".").count == 3)
  }
}

/// A terminal that nobody looks at.
final class PseudoTerminal {
  private let descriptor: Int32
  let path: String

  init() throws {
    let (unlock, number): (UInt, UInt) = (0x4004_5431, 0x8004_5430)  // TIOCSPTLCK, TIOCGPTN
    descriptor = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)
    try #require(descriptor >= 0, "no pseudo terminals here")
    var (no, index): (Int32, Int32) = (0, 0)
    try #require(ioctl(descriptor, unlock, &no) == 0 && ioctl(descriptor, number, &index) == 0)
    path = "/dev/pts/\(index)"
  }

  deinit { close(descriptor) }

  /// What has been written to it since the last look.
  var received: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = read(descriptor, &bytes, bytes.count)
    return count > 0 ? Array(bytes[..<count]) : []
  }

  /// A number of threads that is none is refused instead of taking all cores.
  @Test(arguments: ["abc", "0", "-1", "2.5"])
  func threadsMustBeANumber(text: String) throws {
    let refused = try Scratch().run(
      ["plan", "settings"], environment: ["ESPALIER_THREADS": text])
    #expect(refused.code == 2 && refused.output.isEmpty)
    #expect(refused.complaint.contains("ESPALIER_THREADS is '\(text)'"))
  }

}
