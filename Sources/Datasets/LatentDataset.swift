import Files
import Foundation
import Sampling
import TensorCore

/// Labelled clean latents in memory or in mapped files, read one sample at a time.
package struct LatentDataset {
  /// Shape of one sample (channels, size, size).
  package let shape: [Int]
  package let labels: [Int]
  /// Digest of the content, by which a changed data set is detected; empty for a data set of this
  /// process alone.
  package let identity: String
  /// Captions of captioned data, which have label 0 each.
  package var texts: CaptionSource?
  /// Where steps of a training take their samples instead; nil takes those of the data set.
  var pool: TeacherLatents?
  private let read: (Int, UnsafeMutablePointer<Float>) -> Void
  private let place: (Int) -> String

  /// Makes a data set.
  ///
  /// - Parameters:
  ///   - shape: Shape of a sample (channels, size, size).
  ///   - labels: The label of every sample.
  ///   - identity: Digest of the content.
  ///   - texts: Captions of the samples; nil for labelled data.
  ///   - place: Returns the origin of a sample for error messages.
  ///   - read: Copies the latents of a sample into a buffer; called from any thread.
  package init(
    shape: [Int], labels: [Int], identity: String, texts: CaptionSource? = nil,
    place: @escaping (Int) -> String = { "sample \($0)" },
    read: @escaping (Int, UnsafeMutablePointer<Float>) -> Void
  ) {
    precondition(shape.count == 3, "LatentDataset: samples of shape \(shape)")
    self.shape = shape
    self.labels = labels
    self.identity = identity
    self.texts = texts
    self.read = read
    self.place = place
  }

  /// Makes a data set of latents (count, channels, size, size) in memory.
  package init(latents: Tensor, labels: [Int], identity: String = "") {
    precondition(latents.shape[0] == labels.count, "LatentDataset: counts differ")
    let width = latents.shape.dropFirst().reduce(1, *)
    self.init(shape: Array(latents.shape.dropFirst()), labels: labels, identity: identity) {
      $1.update(from: latents.pointer + $0 * width, count: width)
    }
  }

  /// Makes a data set of latents in files.
  ///
  /// - Parameters:
  ///   - files: The files.
  ///   - cache: The folder of caches, which also holds digests of large files.
  ///   - progress: Called with the number of files that have been read; may throw to stop.
  /// - Throws: `FileError` if a file no longer exists, and errors of `progress`.
  package init(
    _ files: LatentFiles, cache: String, progress: (Int) throws -> Void = { _ in }
  ) throws {
    self.init(
      shape: files.shape, labels: files.labels,
      identity: try files.identity(keptIn: cache, progress: progress), texts: files.texts,
      place: files.place, read: files.read)
  }

  /// Number of samples.
  package var count: Int { labels.count }

  /// Number of elements per sample.
  private var width: Int { shape.reduce(1, *) }

  /// Reads the latents (count, channels, size, size) of the samples at `indices`.
  package func latents(_ indices: some Collection<Int>) -> Tensor {
    let result = Tensor([indices.count] + shape)
    let list = Array(indices)
    Parallel.tasks(list.count) { read(list[$0], result.pointer + $0 * width) }
    return result
  }

  /// Returns the samples at `indices`, in that order.
  package func subset(_ indices: [Int], identity: String) -> LatentDataset {
    LatentDataset(
      shape: shape, labels: indices.map { labels[$0] }, identity: identity,
      texts: texts.map { texts in
        CaptionSource(null: texts.null, length: texts.length, channels: texts.channels) {
          texts.read(indices[$0], $1, $2)
        }
      },
      place: { place(indices[$0]) }, read: { read(indices[$0], $1) })
  }

  /// Splits off a fixed held-out set of at most `count` samples and at most a tenth.
  ///
  /// - Precondition: There are at least two samples.
  package func split(heldOut count: Int) -> (training: LatentDataset, heldOut: LatentDataset) {
    let aside = min(count, max(1, self.count / 10))
    precondition(aside < self.count, "split: \(self.count) samples")
    let order = RandomStream(seed: 0, "held-out samples").permutation(self.count)
    return (
      subset(order[aside...].sorted(), identity: "\(identity) without \(aside)"),
      subset(order[..<aside].sorted(), identity: "\(identity) held out \(aside)")
    )
  }

  /// Downsamples by average pooling and rescales each channel to unit variance.
  package func pooled(to size: Int) -> LatentDataset {
    let (channels, full) = (shape[0], shape[1])
    if size == full { return self }
    precondition(full % size == 0, "pooled: \(full) to \(size)")
    let factor = full / size
    let result = Tensor([count, channels, size, size])
    Parallel.ranges(count) { samples in
      let sample = Tensor(shape)
      for index in samples {
        read(index, sample.pointer)
        for channel in 0..<channels {
          let source = sample.pointer + channel * full * full
          let target = result.pointer + (index * channels + channel) * size * size
          for y in 0..<size {
            for x in 0..<size {
              var sum: Float = 0
              for dy in 0..<factor {
                for dx in 0..<factor { sum += source[(y * factor + dy) * full + x * factor + dx] }
              }
              target[y * size + x] = sum / Float(factor * factor)
            }
          }
        }
      }
    }
    let pooled = LatentDataset(latents: result, labels: labels)
    let (mean, std) = pooled.channelStatistics()
    let area = size * size
    for plane in 0..<(count * channels) {
      let (m, s) = (mean[plane % channels], std[plane % channels])
      for index in (plane * area)..<((plane + 1) * area) { result[index] = (result[index] - m) / s }
    }
    return pooled
  }

  /// Computes mean and standard deviation per channel.
  package func channelStatistics() -> (mean: [Float], std: [Float]) {
    let (channels, area) = (shape[0], shape[1] * shape[2])
    var sums = [Double](repeating: 0, count: channels)
    var squares = [Double](repeating: 0, count: channels)
    let sample = Tensor(shape)
    for index in 0..<count {
      read(index, sample.pointer)
      for element in 0..<sample.count {
        let value = Double(sample[element])
        sums[element / area] += value
        squares[element / area] += value * value
      }
    }
    let total = Double(count * area)
    let mean = sums.map { $0 / total }
    let std = zip(squares, mean).map { max(1e-12, $0 / total - $1 * $1).squareRoot() }
    return (mean.map { Float($0) }, std.map { Float($0) })
  }

  /// Draws the samples of a step of a training, or takes them from the pool.
  ///
  /// - Parameters:
  ///   - rows: Number of samples.
  ///   - seed: Seed of the training.
  ///   - stage: `stage1` or `stage2`.
  ///   - step: Number of the step.
  ///   - timesteps: Distribution of the 1000 timesteps; nil is uniform, and a pool has its own.
  ///   - nullClass: Label that replaces dropped labels; nil drops none.
  ///   - labelDropout: Probability of dropping a label or caption.
  /// - Returns: The samples.
  package func batch(
    _ rows: Int, seed: UInt64, stage: String, step: Int, timesteps: DiscreteDistribution? = nil,
    nullClass: Int?, labelDropout: Double
  ) -> DiffusionBatch {
    pool?.batch(
      rows: rows, seed: seed, stage: stage, step: step, nullClass: nullClass,
      labelDropout: labelDropout)
      ?? batch(
        0..<rows, seed: seed, name: "\(stage)/\(step)", timesteps: timesteps,
        nullClass: nullClass, labelDropout: labelDropout)
  }

  /// Draws rows of a training batch: samples, timesteps, noise, and labels or captions dropped to that
  /// of no condition.
  ///
  /// Each row depends only on seed, name and its number, so parts of a batch can be drawn
  /// separately.
  /// - Parameters:
  ///   - rows: Row numbers in the whole batch.
  ///   - seed: Seed of the training.
  ///   - name: Name of the batch, such as `stage2/100`, the prefix of its random streams.
  ///   - samples: Distribution of samples; nil is uniform.
  ///   - timesteps: Distribution of the 1000 timesteps; nil is uniform.
  ///   - nullClass: Label that replaces dropped labels; nil drops none.
  ///   - labelDropout: Probability of dropping a label or caption.
  /// - Returns: The rows.
  package func batch(
    _ rows: Range<Int>, seed: UInt64, name: String, samples: DiscreteDistribution? = nil,
    timesteps: DiscreteDistribution? = nil, nullClass: Int?, labelDropout: Double
  ) -> DiffusionBatch {
    func stream(_ use: String) -> RandomStream { RandomStream(seed: seed, "\(name)/\(use)") }
    func draw(_ distribution: DiscreteDistribution?, _ count: Int, _ random: RandomStream) -> [Int]
    {
      rows.map {
        distribution?.value(at: random.uniform($0)) ?? random.integer(below: count, $0)
      }
    }
    let indices = draw(samples, count, stream("sample"))
    let clean = latents(indices)
    let (dropout, timestep) = (stream("label"), stream("timestep"))
    let isDropped = rows.map { dropout.uniform($0) < labelDropout }
    return DiffusionBatch(
      latents: clean, noise: stream("noise").normal(clean.shape, from: rows.lowerBound * width),
      steps: draw(timesteps, DiscreteDistribution.timesteps, timestep),
      times: rows.map(timestep.uniform),
      labels: zip(isDropped, indices).map { $0 ? nullClass ?? labels[$1] : labels[$1] },
      captions: texts.map { texts in
        texts.captions(zip(isDropped, indices).map { $0 && texts.null != nil ? nil : $1 })
      }, samples: indices)
  }

  /// Finds the first sample of a batch with non-finite values.
  ///
  /// - Returns: A sentence with the next step; nil if all values are finite.
  package func fault(in batch: DiffusionBatch, of name: String = "training") -> String? {
    for (row, index) in batch.samples.enumerated()
    where !batch.latents.rows(row..<(row + 1)).isFinite
      || batch.captions?.embeddings.rows(row..<(row + 1)).isFinite == false
    {
      return
        "\(place(index)) of the \(name) data holds values that are not finite; correct or remove it"
        + " and start a new run"
    }
    return nil
  }
}
