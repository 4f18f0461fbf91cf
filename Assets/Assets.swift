import Foundation

/// The files that ship with Espalier.
package enum DemoAssets {
  /// The folder that holds the shipped model, its autoencoder and its judge.
  package static var directory: URL {
    Bundle.module.resourceURL?.appending(path: "demo") ?? Bundle.module.bundleURL
  }
}
