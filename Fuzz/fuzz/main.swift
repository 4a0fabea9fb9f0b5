// fuzz [--minutes N] [--seed S] [NAME ...]: fuzzes every decoder, or those whose name contains NAME, in turns, for N
// minutes (1). Says which seed it is at, so that a find can be repeated. Inputs that show a decoder doing something new
// are added to Fuzz/Corpus.

import Foundation
import FuzzTargets

var minutes = 1.0
var seed = UInt64.random(in: 0...UInt64(UInt32.max))
var names: [String] = []
var arguments = CommandLine.arguments.dropFirst()
while let argument = arguments.popFirst() {
    switch argument {
    case "--minutes": minutes = arguments.popFirst().flatMap(Double.init) ?? minutes
    case "--seed": seed = arguments.popFirst().flatMap { UInt64($0) } ?? seed
    default: names.append(argument)
    }
}

let targets = FuzzTargets.all.filter { target in names.isEmpty || names.contains { target.name.contains($0) } }
guard !targets.isEmpty else {
    FileHandle.standardError.write(Data("fuzz: no decoder has such a name\n".utf8))
    exit(64)
}
let clock = ContinuousClock()
let end = clock.now + .seconds(minutes * 60)
var inputs = 0
var corpora = try targets.map { try FuzzCorpus.kept(for: $0) }
let before = corpora.map(\.inputs.count).reduce(0, +)
repeat {
    for (index, target) in targets.enumerated() {
        // On standard error before the run: a crash leaves its seed as the last line.
        FileHandle.standardError.write(Data("fuzz \(target.name) --seed \(seed)\n".utf8))
        target.fuzz(count: 10_000, seed: seed, from: &corpora[index])
        try corpora[index].keep(for: target)
        inputs += 10_000
    }
    seed &+= 1
} while clock.now < end
let after = corpora.map(\.inputs.count).reduce(0, +)
print(
    "fuzz: \(targets.count) decoders, \(inputs) inputs, nothing found; the corpus has \(after) inputs, \(after - before) new"
)
