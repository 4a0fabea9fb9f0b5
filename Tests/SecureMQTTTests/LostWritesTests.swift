import Foundation
import TestSupport
import Testing

/// The tool itself: a test that loses nothing would prove nothing.
@Suite(.enabled(if: LostWrites.isPossible && ChildProcess.find("sqlite3") != nil))
struct LostWritesTests {
    /// Commits `rows` rows one by one with the sqlite3 program, kills it with the database open, takes the power
    /// away, and counts.
    private func rowsLeft(synchronous: String, rows: Int = 50) async throws -> Int {
        let folder = try TemporaryDirectory()
        let data = folder.path("data")
        try FileManager.default.createDirectory(atPath: data, withIntermediateDirectories: false)
        let create = try ChildProcess(
            "sqlite3", [data + "/a.db", "PRAGMA journal_mode = WAL; CREATE TABLE t (x)"])
        try await create.wait()

        let disk = try await LostWrites(root: data, image: folder.path("image"))
        let inserts = (1...rows).map { "INSERT INTO t VALUES (\($0));\n" }.joined()
        // Kills itself, so that there is no moment to wait for.
        let script = "PRAGMA synchronous = \(synchronous);\n\(inserts).shell kill -9 $PPID\n"
        let process = try ChildProcess(
            "sqlite3", [data + "/a.db"],
            environment: ProcessInfo.processInfo.environment.merging(disk.environment) { $1 },
            input: Array(script.utf8))
        #expect(try await process.wait() == .signalled(SIGKILL))
        #expect(FileManager.default.fileExists(atPath: data + "/a.db-wal"))

        try await disk.losePower()
        let count = try ChildProcess("sqlite3", [data + "/a.db", "PRAGMA integrity_check; SELECT count(*) FROM t"])
        try await count.wait()
        let lines = count.output.split(separator: "\n")
        #expect(lines.first == "ok", "\(count.errorOutput)")
        return Int(lines.last ?? "") ?? -1
    }

    @Test func `commits with synchronous FULL survive the loss of power`() async throws {
        #expect(try await self.rowsLeft(synchronous: "FULL") == 50)
    }

    @Test(arguments: ["NORMAL", "OFF"])
    func `commits with less than FULL do not, though they survive the killing of the process`(
        synchronous: String
    ) async throws {
        #expect(try await self.rowsLeft(synchronous: synchronous) == 0)
    }
}
