// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .treatAllWarnings(as: .error),
]

/// Kernels stay optimised in debug builds too: every test would otherwise crawl.
let kernelFlags: [CSetting] = [
  .unsafeFlags(["-O3", "-Wall", "-Wextra", "-Werror"])
]

func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(
  _ name: String, _ dependencies: [Target.Dependency], exclude: [String] = [],
  resources: [Resource] = []
) -> Target {
  .testTarget(
    name: "\(name)Tests", dependencies: dependencies, exclude: exclude, resources: resources,
    swiftSettings: strict)
}

let package = Package(
  name: "espalier",
  products: [.executable(name: "espalier", targets: ["espalier"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
  ],
  targets: [
    // System libraries: module maps only.
    .systemLibrary(name: "COpenBLAS"),
    .systemLibrary(name: "CNcurses"),
    .systemLibrary(name: "CSixel"),
    .systemLibrary(name: "CCrypto"),
    .systemLibrary(name: "CZlib"),
    .systemLibrary(name: "CText"),

    // Text as people see it.
    library("Text", ["CText"]),

    // The engine.
    .target(name: "CKernels", cSettings: kernelFlags),
    .target(
      name: "COneDNN", cSettings: kernelFlags,
      linkerSettings: [.linkedLibrary("dnnl"), .linkedLibrary("dl")]),
    library("TensorCore", ["CKernels", "COpenBLAS", "COneDNN"]),
    library("Autograd", ["TensorCore", "CKernels"]),
    library("Nn", ["Autograd", "TensorCore", "CKernels", "Checkpoints", "Files"]),

    // Files, plans and runs: no numeric code.
    .target(name: "CSystem", cSettings: kernelFlags),
    library("Files", ["CSystem", "CZlib", "CCrypto"]),
    .target(
      name: "CPictures", cSettings: kernelFlags,
      linkerSettings: [.linkedLibrary("png"), .linkedLibrary("jpeg")]),
    library("Pictures", ["Files", "CPictures"]),
    library("Checkpoints", ["Files"]),
    library("Plans", ["Files"]),
    library("Runs", ["Plans", "Pictures", "Files", "CSystem"]),

    // The method.
    library("Operators", ["Plans", "Nn", "Autograd", "TensorCore"]),
    library(
      "Models",
      [
        "Operators", "Plans", "Checkpoints", "Files", "Nn", "Autograd", "TensorCore", "CKernels",
        "Assets",
      ]),
    library(
      "OfficialFormat",
      [
        "Models", "Operators", "Plans", "Checkpoints", "Files",
        .product(name: "Yams", package: "Yams"),
      ]),
    .target(
      name: "CSentencePiece", cxxSettings: [.unsafeFlags(["-O2", "-Wall", "-Wextra", "-Werror"])],
      linkerSettings: [.linkedLibrary("sentencepiece")]),
    library(
      "TextEncoders",
      ["Models", "Checkpoints", "Files", "TensorCore", "CKernels", "CSentencePiece"]),
    library(
      "Sampling",
      [
        "TextEncoders", "Models", "Plans", "Checkpoints", "Pictures", "Files", "Autograd",
        "TensorCore", "CKernels",
      ]),
    library(
      "Datasets",
      ["Sampling", "Models", "Plans", "Checkpoints", "Pictures", "Files", "TensorCore"]),
    library("Analysis", ["Sampling", "Models", "Operators", "Plans", "TensorCore"]),
    library(
      "Evaluation",
      [
        "Datasets", "Sampling", "Models", "Checkpoints", "Pictures", "Files", "TensorCore",
        "COpenBLAS",
      ]),
    library(
      "Training",
      [
        "Datasets", "Sampling", "Models", "Plans", "Checkpoints", "Files", "Nn", "Autograd",
        "TensorCore", "CKernels",
      ]),
    library(
      "Grafting",
      [
        "Training", "Datasets", "Sampling", "Models", "Operators", "Plans", "Checkpoints", "Files",
        "Nn", "Autograd", "TensorCore", "CKernels",
      ]),
    library("Search", ["Plans", "Checkpoints", "Files"]),
    library(
      "Library",
      [
        "Search", "Grafting", "Datasets", "Sampling", "Models", "Operators", "Plans", "Checkpoints",
        "Files", "Autograd", "TensorCore",
      ]),
    library(
      "Parity",
      [
        "Grafting", "Training", "Evaluation", "Datasets", "Analysis", "Sampling", "TextEncoders",
        "Models", "Operators", "Plans", "Checkpoints", "Files", "Nn", "Autograd", "TensorCore",
        "Text",
      ]),
    .target(
      name: "TorchEngine",
      dependencies: ["Plans", "Files", .product(name: "Yams", package: "Yams")],
      exclude: ["README.md"], resources: [.copy("espalier_torch"), .copy("pyproject.toml")],
      swiftSettings: strict),
    library(
      "Jobs",
      [
        "TorchEngine", "Runs", "Reports", "Library", "Search", "Grafting", "Analysis", "Evaluation",
        "Datasets", "Sampling", "Models", "Plans", "Checkpoints",
        "Pictures", "Files", "Autograd", "TensorCore", "Text",
      ]),
    library(
      "Reports",
      [
        "Runs", "Search", "Grafting", "Evaluation", "Sampling", "Models", "Plans", "Pictures",
        "Files", "TensorCore", "Text",
      ]),
    .target(
      name: "Assets", path: "Assets",
      exclude: ["README.md", "study.md", "explorer.png", "plots.png", "search.png"],
      sources: ["Assets.swift"], resources: [.copy("demo")], swiftSettings: strict),

    // The terminal.
    .target(name: "CTerminal", cSettings: kernelFlags),
    library("TerminalUI", ["Text", "Pictures", "CNcurses", "CSixel", "CTerminal", "CZlib"]),
    library("Explorer", ["TerminalUI", "Text", "Search", "Runs", "Plans", "Pictures", "Files"]),
    .executableTarget(
      name: "espalier",
      dependencies: [
        "Explorer", "TerminalUI", "Jobs", "TorchEngine", "Reports", "Parity", "OfficialFormat",
        "Runs", "Search", "Grafting",
        "Training", "Evaluation", "Datasets", "Sampling", "Models", "Operators", "Plans",
        "Checkpoints", "Pictures", "Files", "Nn", "Autograd", "TensorCore", "Text",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: strict),

    // What several test targets share.
    .target(
      name: "TestSupport",
      dependencies: [
        "Datasets", "Models", "Operators", "Plans", "Nn", "Autograd", "TensorCore",
      ], path: "Tests/TestSupport", swiftSettings: strict),
    tests(
      "TensorCore", ["TensorCore", "CKernels", "COneDNN", "TestSupport"], exclude: ["Fixtures"]),
    tests("Autograd", ["Autograd", "TensorCore", "Nn", "TestSupport"]),
    tests("Files", ["Files", "Checkpoints", "TestSupport"]),
    tests("Pictures", ["Pictures", "Files", "TestSupport"]),
    tests("Checkpoints", ["Checkpoints", "Files", "TestSupport"]),
    tests("Plans", ["Plans", "Operators", "Files"]),
    tests("Runs", ["Runs", "Plans", "Operators", "Pictures", "Files", "TestSupport"]),
    tests("Operators", ["Operators", "Plans", "Nn", "Autograd", "TensorCore", "TestSupport"]),
    tests(
      "Models",
      [
        "Models", "Operators", "Plans", "Checkpoints", "Files", "Nn", "Autograd", "TensorCore",
        "Assets", "TestSupport",
      ], exclude: ["Fixtures"]),
    tests("OfficialFormat", ["OfficialFormat", "Models", "Operators", "Plans"]),
    tests("TextEncoders", ["TextEncoders", "Checkpoints", "Files", "TensorCore", "TestSupport"]),
    tests(
      "Sampling",
      [
        "Sampling", "Models", "Plans", "Checkpoints", "Files", "Nn", "Autograd", "TensorCore",
        "TestSupport",
      ]),
    tests(
      "Datasets",
      [
        "Datasets", "Sampling", "Models", "Checkpoints", "Pictures", "Files", "TensorCore",
        "TestSupport",
      ],
      exclude: ["Fixtures"]),
    tests("Analysis", ["Analysis", "TensorCore", "TestSupport"]),
    tests("Evaluation", ["Evaluation", "Pictures", "Files", "TensorCore", "TestSupport"]),
    tests(
      "Grafting",
      [
        "Grafting", "Training", "Analysis", "Datasets", "Sampling", "Models", "Operators", "Plans",
        "Checkpoints", "Files", "Nn", "Autograd", "TensorCore", "CKernels", "TestSupport",
      ]),
    tests(
      "Search",
      [
        "Library", "Search", "Operators", "Plans", "Sampling", "Models", "Grafting", "Datasets",
        "TensorCore", "TestSupport",
      ]),
    tests(
      "Parity", ["Parity", "Operators", "Checkpoints", "Files", "TensorCore", "TestSupport"]),
    tests("Text", ["Text"]),
    tests("TerminalUI", ["TerminalUI", "Pictures", "CZlib"]),
    tests(
      "Explorer",
      [
        "Explorer", "TerminalUI", "Search", "Runs", "Plans", "Operators", "Pictures", "TestSupport",
      ],
      resources: [.copy("Snapshots"), .copy("Themes")]),
    tests("Jobs", ["Jobs", "Runs", "Plans", "Files", "TensorCore"]),
    tests(
      "Reports",
      [
        "Reports", "Evaluation", "Search", "Operators", "Runs", "Plans", "Pictures", "Files",
        "TestSupport",
      ]),
    tests(
      "Espalier",
      [
        "espalier", "Search", "Runs", "Datasets", "Models", "Operators", "Plans", "Checkpoints",
        "Pictures", "Files", "Nn", "Autograd", "TensorCore", "Assets", "TestSupport",
      ]),
  ]
)
