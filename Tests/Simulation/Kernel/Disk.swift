/// A transactional disk: the one thing of a process that is still there after it.
///
/// An honest disk keeps a transaction from the moment `commit` returns. A crash can be set for the next
/// commit, before or behind the point where it becomes durable; either way the caller never learns. A
/// disk that lies returns at once and keeps nothing until `sync`: no store of ours may be built on it, and
/// the checker must find it out.
final class Disk<Image> {
    enum Failure: Error {
        /// The process died inside this call: nothing after it happens.
        case crashed
        case full
    }

    enum CrashPoint { case before, after }

    /// What the running process sees.
    private(set) var visible: Image
    /// What was durable before the first change that is not, on a disk that lies.
    private var base: Image?
    var isFull = false
    var liesAboutSync = false
    /// The next commit ends the process there.
    var crashAtNextCommit: CrashPoint?
    private(set) var isCrashed = false
    private(set) var commits = 0

    init(_ image: Image) {
        self.visible = image
    }

    /// What a process would find if it started now.
    var durable: Image { self.base ?? self.visible }

    func commit(growing: Bool = true, _ change: (inout Image) -> Void) throws(Failure) {
        if self.isCrashed { throw .crashed }
        if self.crashAtNextCommit == .before {
            self.isCrashed = true
            throw .crashed
        }
        if self.isFull && growing { throw .full }
        self.commits += 1
        if self.liesAboutSync && self.base == nil { self.base = self.visible }
        change(&self.visible)
        if self.crashAtNextCommit == .after {
            self.isCrashed = true
            throw .crashed
        }
    }

    /// What a lying disk does now and then by itself.
    func sync() {
        self.base = nil
    }

    /// Power off and on: what was not durable is gone.
    func restart() {
        self.visible = self.durable
        self.base = nil
        self.isCrashed = false
        self.crashAtNextCommit = nil
    }

    /// Another card is put in.
    func replace(with image: Image) {
        self.visible = image
        self.base = nil
        self.restart()
    }
}
