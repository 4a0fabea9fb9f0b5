import Foundation
import Identity

/// Inputs that once showed something new, kept in `Fuzz/Corpus`: a file for each target, hexadecimal, an input a line.
public struct FuzzCorpus: Sendable {
    public private(set) var inputs: [[UInt8]] = []
    private var known: Set<String> = []

    /// The most inputs, and bytes of one.
    private static let maximumCount = 2_000
    private static let maximumSize = 1_024

    public init() {}

    /// What the target has in this checkout; nothing if it has no file.
    ///
    /// - Throws: if its file cannot be read.
    public static func kept(for target: FuzzTarget) throws -> FuzzCorpus {
        var corpus = FuzzCorpus()
        let file = Self.file(of: target)
        guard FileManager.default.fileExists(atPath: file) else { return corpus }
        for (index, line) in try String(contentsOfFile: file, encoding: .utf8).split(separator: "\n").enumerated() {
            guard let input = [UInt8](hexadecimal: line) else {
                throw FuzzCorpusError(description: "\(file), line \(index + 1): not hexadecimal")
            }
            corpus.inputs.append(input)
        }
        return corpus
    }

    /// Keeps it, if there is anything.
    public func keep(for target: FuzzTarget) throws {
        guard !self.inputs.isEmpty else { return }
        try FileManager.default.createDirectory(atPath: Self.directory, withIntermediateDirectories: true)
        let lines = self.inputs.map { $0.hexadecimal + "\n" }.joined()
        try lines.write(toFile: Self.file(of: target), atomically: true, encoding: .utf8)
    }

    private static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Corpus").path

    private static func file(of target: FuzzTarget) -> String { "\(self.directory)/\(target.name).txt" }

    /// What these features show is nothing new any more.
    mutating func know(_ features: FuzzFeatures) { self.known.formUnion(features.words) }

    /// Takes an input that shows something new, as short as it still does.
    mutating func offer(_ input: [UInt8], _ features: FuzzFeatures, _ run: ([UInt8]) -> FuzzFeatures) {
        let new = features.words.subtracting(self.known)
        guard !new.isEmpty, self.inputs.count < Self.maximumCount else { return }
        var short = input
        var step = short.count / 2
        while step > 0 {
            let tries = [Array(short.dropLast(step)), Array(short.dropFirst(step))]
            if let shorter = tries.first(where: { new.isSubset(of: run($0).words) }) {
                short = shorter
                step = min(step, short.count / 2)
            } else {
                step /= 2
            }
        }
        self.know(features)
        if short.count <= Self.maximumSize { self.inputs.append(short) }
    }
}

/// One line: what is wrong with a corpus.
public struct FuzzCorpusError: Error, CustomStringConvertible {
    public let description: String
}
