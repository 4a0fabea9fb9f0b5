import Dispatch
import Foundation
import GRDB
package import Logging
import Storage
import Synchronization

/// The broker's sessions in SQLite: one file, `sessions.sqlite3`, in a folder that one process holds.
///
/// WAL with `synchronous = FULL`, set, read back and insisted on: what is said to be committed is on disk.
///
/// **Group commit.** A queue of its own, which blocks on the disk, takes all that was appended by the time it is free
/// and makes one transaction of it. What begins and ends within one is not written at all.
///
/// **What can be cured is waited for.** If the disk is full (or over quota, or memory is short) the same changes are
/// tried again, ever more slowly up to every 5 seconds, with a line in the log at the first time and then once a
/// minute; `done` waits as long. The broker meanwhile holds the publishers, so what waits is bounded. Everything else
/// (a failed sync, a damaged file) ends the store: the changes and all later ones are answered with a ``BrokerError``.
package final class SQLiteSessionStore: SessionStore {
    /// The database's name in the folder.
    package static let fileName = "sessions.sqlite3"

    /// How long ``close()`` goes on trying what the disk does not take.
    private static let patienceAtEnd: Duration = .seconds(2)

    private struct Append {
        let changes: [StoreChange]
        let done: @Sendable (Result<Void, any Error>) -> Void
    }

    private struct State {
        var pending: [Append] = []
        /// Whether the queue works, or is about to.
        var isBusy = false
        var isClosing = false
        /// Why the store has ended.
        var failure: BrokerError?
    }

    private let path: String
    private let lock: StateLock
    private let database: DatabaseQueue
    private let queue = DispatchQueue(label: "sessions", qos: .userInitiated)
    private let state = Mutex(State())
    /// Only touched on `queue`: the mutex is never waited for.
    private let index = Mutex(StoreIndex())
    private let closing = DispatchSemaphore(value: 0)
    private let logger: Logger

    /// Opens, and makes if need be, the store of a folder. Blocks.
    ///
    /// - Throws: ``BrokerError`` with code `store-in-use`, `store-unusable`, `store-damaged`.
    package init(directory: String, logger: Logger) throws(BrokerError) {
        do {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw BrokerError(
                .storeUnusable,
                "cannot make the folder \(directory): \(String(cString: strerror(errno))); check broker.store")
        }
        do throws(StateLockError) {
            self.lock = try StateLock(directory: directory)
        } catch {
            throw BrokerError(error.code == .inUse ? .storeInUse : .storeUnusable, error.reason)
        }
        self.path = directory + "/" + Self.fileName
        self.logger = logger
        self.database = try StoreFile.open(self.path)
    }

    package func load() throws -> StoredState {
        try self.queue.sync {
            do {
                let (state, index) = try self.database.read { try StoreReader($0).readAll() }
                self.index.withLock { $0 = index }
                return state
            } catch {
                throw self.translate(error)
            }
        }
    }

    package func append(
        _ changes: [StoreChange], then done: @escaping @Sendable (Result<Void, any Error>) -> Void
    ) {
        self.state.withLock { state in
            state.pending.append(Append(changes: changes, done: done))
            guard !state.isBusy else { return }
            state.isBusy = true
            self.queue.async { self.drain() }
        }
    }

    package func close() {
        self.state.withLock { $0.isClosing = true }
        self.closing.signal()
        self.queue.sync {
            let isClosed = self.state.withLock { state in
                let isClosed = state.failure?.code == .closed
                if state.failure == nil { state.failure = BrokerError(.closed, "the store of sessions is closed") }
                return isClosed
            }
            guard !isClosed else { return }
            do {
                try self.database.close()
            } catch {
                self.logger.warning("\(self.path) was not closed in good order: \(error)")
            }
            self.lock.release()
        }
    }

    // MARK: Committing

    private func drain() {
        while true {
            let (appends, failure) = self.state.withLock { state in
                let appends = state.pending
                state.pending = []
                if appends.isEmpty { state.isBusy = false }
                return (appends, state.failure)
            }
            guard !appends.isEmpty else { return self.tidy() }
            let result: Result<Void, any Error>
            if let failure {
                result = .failure(failure)
            } else {
                do throws(BrokerError) {
                    try self.commit(appends)
                    result = .success(())
                } catch {
                    self.state.withLock { $0.failure = error }
                    self.logger.critical("\(error)")
                    result = .failure(error)
                }
            }
            for append in appends { append.done(result) }
        }
    }

    /// Returns when all is on disk.
    private func commit(_ appends: [Append]) throws(BrokerError) {
        var pause: Duration = .milliseconds(50)
        var waited: Duration = .zero
        var nextWord: Duration = .zero
        var patience = Self.patienceAtEnd
        while true {
            do {
                try self.commitOnce(appends)
                if waited > .zero { self.logger.notice("\(self.path) can be written again: publishers go on") }
                return
            } catch {
                guard let problem = Self.curable(error) else { throw self.translate(error) }
                let text = "\(self.path) cannot be written: \(problem)"
                if waited >= nextWord {
                    self.logger.error("\(text); publishers wait meanwhile, nothing is lost")
                    nextWord = waited + .seconds(60)
                }
                let isClosing = self.state.withLock { $0.isClosing }
                guard !isClosing || patience > .zero else {
                    throw BrokerError(.storeFailed, "\(text); the last changes were not acknowledged and are lost")
                }
                if isClosing {
                    Thread.sleep(forTimeInterval: pause.seconds)
                    patience -= pause
                } else {
                    // Ends early when the store is to close.
                    _ = self.closing.wait(timeout: .now() + pause.seconds)
                }
                waited += pause
                pause = min(pause * 2, .seconds(5))
            }
        }
    }

    private func commitOnce(_ appends: [Append]) throws {
        try self.index.withLock { index in
            var batch = StoreBatch()
            try self.database.write { [index] db in
                let reader = StoreReader(db)
                for append in appends {
                    for change in append.changes { try batch.apply(change, on: index, reader) }
                }
                try StoreWriter(db).write(batch, on: index)
            }
            batch.note(in: &index)
            if batch.strays > 0 {
                self.logger.warning(
                    "\(batch.strays) changes of sessions or messages that are not there were left out of \(self.path)")
            }
        }
    }

    /// Gives pages back when most of the file is empty, a few at a time, while nothing waits.
    private func tidy() {
        do {
            while self.state.withLock({ $0.pending.isEmpty && $0.failure == nil }) {
                let isLarge = try self.database.writeWithoutTransaction { db in
                    let free = try Int.fetchOne(db.cachedStatement(sql: "PRAGMA freelist_count")) ?? 0
                    guard free >= 2_048 else { return false }
                    let pages = try Int.fetchOne(db.cachedStatement(sql: "PRAGMA page_count")) ?? 0
                    guard free > pages / 2 else { return false }
                    try db.execute(sql: "PRAGMA incremental_vacuum(512)")
                    return true
                }
                guard isLarge else { return }
            }
        } catch {
            // No harm: the pages are used again. What is wrong with the disk shows at the next commit.
            self.logger.debug("\(self.path) was not made smaller: \(error)")
        }
    }

    // MARK: Errors

    /// What must be cured for the same changes to be taken; `nil` if that would be no cure.
    ///
    /// A failed sync is not: the system may have thrown away what it could not write, and a second sync that
    /// succeeds would prove nothing.
    private static func curable(_ error: any Error) -> String? {
        guard let error = error as? DatabaseError else { return nil }
        switch (error.resultCode, error.extendedResultCode) {
        case (.SQLITE_FULL, _): return "the disk is full: make room"
        case (_, .SQLITE_IOERR_WRITE), (_, .SQLITE_IOERR_TRUNCATE):
            return "\(error.message ?? "write error"): make room, or raise the quota"
        case (.SQLITE_NOMEM, _), (_, .SQLITE_IOERR_NOMEM): return "memory is short"
        case (.SQLITE_BUSY, _), (.SQLITE_LOCKED, _): return "another program holds it: close it there"
        default: return nil
        }
    }

    private func translate(_ error: any Error) -> BrokerError {
        switch error {
        case let error as BrokerError: return error
        case let error as StoreRowError: return StoreFile.damaged(self.path, error.description)
        case let error as DatabaseError:
            let message = error.message ?? "SQLite error \(error.extendedResultCode.rawValue)"
            switch error.resultCode {
            case .SQLITE_CORRUPT, .SQLITE_NOTADB, .SQLITE_ERROR: return StoreFile.damaged(self.path, message)
            default:
                return BrokerError(
                    .storeFailed,
                    "\(self.path) cannot be written or read any more: \(message); check the disk, then start again")
            }
        default: return BrokerError(.storeFailed, "\(self.path) cannot be written or read any more: \(error)")
        }
    }

    // MARK: For tests

    /// Limits the size of the database, in pages of 4,096 bytes, as a full disk does.
    package func limitSize(pages: Int) throws {
        try self.database.writeWithoutTransaction { _ = try Int.fetchOne($0, sql: "PRAGMA max_page_count = \(pages)") }
    }

    /// The answer to a pragma on the connection that writes.
    package func pragma(_ name: String) throws -> String? {
        try self.database.writeWithoutTransaction { try String.fetchOne($0, sql: "PRAGMA \(name)") }
    }
}

extension Duration {
    fileprivate var seconds: Double {
        Double(self.components.seconds) + Double(self.components.attoseconds) / 1e18
    }
}
