import Foundation
import TestSupport

/// A disk that forgets: what a process wrote in one folder and did not sync is gone after ``losePower()``.
///
/// Support/lost-writes.c says how. It is compiled when first needed.
struct LostWrites {
    /// For `.enabled(if:)`.
    static let isPossible = ChildProcess.find("cc") != nil && FileManager.default.fileExists(atPath: Self.source)

    /// The folder that forgets.
    let root: String
    private let image: String
    private let tools: Tools

    /// - Parameters:
    ///   - root: Of one process at a time.
    ///   - image: Where the durable image is kept; outside of `root`, on the same file system or not.
    init(root: String, image: String) async throws {
        self.root = root
        self.image = image
        self.tools = try await Self.shared.value
    }

    /// What to add to the environment of the process.
    var environment: [String: String] {
        // Beside what is preloaded already, by a sanitizer for instance.
        let others = ProcessInfo.processInfo.environment["LD_PRELOAD"].map { ":\($0)" } ?? ""
        return [
            "LD_PRELOAD": self.tools.library + others, "LOST_WRITES_ROOT": self.root, "LOST_WRITES_IMAGE": self.image,
        ]
    }

    /// Puts the folder into the state that the disk is in. The process has been killed.
    func losePower() async throws {
        let process = try ChildProcess(self.tools.restore, [self.image, self.root])
        let exit = try await process.wait()
        guard exit == .exited(0) else { throw LostWritesError(description: process.errorOutput) }
    }

    private struct Tools: Sendable {
        let folder: TemporaryDirectory
        var library: String { self.folder.path("lost-writes.so") }
        var restore: String { self.folder.path("restore") }
    }

    private static let source =
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().path
        + "/Support/lost-writes.c"

    private static let shared = Task {
        let tools = Tools(folder: try TemporaryDirectory())
        try await Self.compile(["-shared", "-fPIC", "-o", tools.library, Self.source, "-ldl", "-lpthread"])
        try await Self.compile(["-DRESTORE", "-o", tools.restore, Self.source])
        return tools
    }

    private static func compile(_ arguments: [String]) async throws {
        let compiler = try ChildProcess("cc", ["-O2", "-w"] + arguments)
        let exit = try await compiler.wait()
        guard exit == .exited(0) else { throw LostWritesError(description: compiler.errorOutput) }
    }
}

struct LostWritesError: Error, CustomStringConvertible {
    let description: String
}
