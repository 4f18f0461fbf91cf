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
    .systemLibrary(name: "CPng"),
    .systemLibrary(name: "CJpeg"),
    .systemLibrary(name: "CZlib"),

    // The engine.
    .target(name: "CKernels", cSettings: kernelFlags),
    .target(
      name: "COneDNN", cSettings: kernelFlags,
      linkerSettings: [.linkedLibrary("dnnl"), .linkedLibrary("dl")]),
    library("TensorCore", ["CKernels", "COpenBLAS", "COneDNN"]),
    library("Autograd", ["TensorCore", "CKernels"]),
    library("Nn", ["Autograd", "TensorCore", "CKernels", "Checkpoints"]),

    // Files and plans: no numeric code.
    .target(name: "CSystem", cSettings: kernelFlags),
    .target(
      name: "Checkpoints",
      dependencies: ["CSystem", "CPng", "CJpeg", "CZlib"],
      swiftSettings: strict),
    library("Plans", ["Checkpoints"]),
    library("Runs", ["Plans", "Checkpoints", "CSystem"]),

    // The method.
    library("Operators", ["Plans", "Nn", "Autograd", "TensorCore", "CKernels"]),
    library("ImageSources", ["Checkpoints"]),
    library(
      "Models", ["Operators", "Plans", "Checkpoints", "Nn", "Autograd", "TensorCore", "CKernels"]),
    library(
      "OfficialFormat",
      ["Models", "Plans", "Checkpoints", .product(name: "Yams", package: "Yams")]),
    library("Sampling", ["TensorCore"]),
    library("Analysis", ["TensorCore", "CKernels", "COpenBLAS"]),
    library(
      "Grafting",
      [
        "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints", "ImageSources", "Nn",
        "Autograd", "TensorCore", "CKernels", "Assets",
      ]),
    library(
      "Parity",
      [
        "Grafting", "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints", "Nn",
        "Autograd", "TensorCore",
      ]),
    library(
      "Jobs",
      [
        "Runs", "Grafting", "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints",
        "ImageSources", "Nn", "Autograd", "TensorCore", "Assets",
      ]),
    library("Reports", ["Runs", "Grafting", "Models", "Plans", "Checkpoints", "TensorCore"]),
    .target(
      name: "Assets", path: "Assets", exclude: ["README.md", "study.md", "explorer.png"],
      sources: ["Assets.swift"], resources: [.copy("demo")], swiftSettings: strict),

    // The terminal.
    .target(name: "CTerminal", cSettings: kernelFlags),
    library("TerminalUI", ["CNcurses", "CSixel", "CTerminal"]),
    library("Explorer", ["TerminalUI", "Runs", "Plans", "Checkpoints"]),
    .executableTarget(
      name: "espalier",
      dependencies: [
        "Explorer", "TerminalUI", "Jobs", "Reports", "Parity", "OfficialFormat", "Runs", "Grafting",
        "Analysis", "Sampling",
        "Models",
        "Operators", "Plans", "Checkpoints", "ImageSources", "Nn", "Autograd", "TensorCore",
        "Assets",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: strict),

    tests("TensorCore", ["TensorCore", "CKernels", "COneDNN"]),
    tests("Autograd", ["Autograd", "TensorCore", "Nn"]),
    tests("Checkpoints", ["Checkpoints"], exclude: ["Fixtures"]),
    tests("Plans", ["Plans", "Operators", "Checkpoints"]),
    tests("Runs", ["Runs", "Plans", "Operators"]),
    tests("Operators", ["Operators", "Plans", "Nn", "Autograd", "TensorCore"]),
    tests("ImageSources", ["ImageSources", "Checkpoints"], exclude: ["Fixtures"]),
    tests(
      "Models",
      ["Models", "Operators", "Plans", "Checkpoints", "Nn", "Autograd", "TensorCore", "Assets"],
      exclude: ["Fixtures"]),
    tests("OfficialFormat", ["OfficialFormat", "Models", "Operators", "Plans"]),
    tests("Sampling", ["Sampling", "TensorCore"]),
    tests("Analysis", ["Analysis", "TensorCore"]),
    tests(
      "Grafting",
      [
        "Grafting", "Models", "Sampling", "Operators", "Plans", "Checkpoints", "ImageSources", "Nn",
        "Autograd", "TensorCore", "Assets",
      ]),
    tests("Parity", ["Parity", "Operators", "Checkpoints", "TensorCore"]),
    tests("TerminalUI", ["TerminalUI"]),
    tests(
      "Explorer", ["Explorer", "TerminalUI", "Runs", "Plans", "Operators"],
      resources: [.copy("Snapshots")]),
    tests("Jobs", ["Jobs", "Runs", "Plans", "Checkpoints"]),
    tests("Reports", ["Reports", "Grafting", "Operators", "Runs", "Plans", "Checkpoints"]),
    tests(
      "Espalier",
      [
        "espalier", "Runs", "Grafting", "Models", "Operators", "Plans", "Checkpoints",
        "ImageSources", "Nn",
        "Autograd", "TensorCore", "Assets",
      ]),
  ]
)
