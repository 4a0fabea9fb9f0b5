import DequeModule
import Telemetry

/// An auditor's own alerts on their way to its control center: what is raised, and what is over. They are hints: they
/// are not in the stream, and what does not arrive is told again on the next connection as long as it lasts; that it is
/// over, once more.
struct AlertOutbox {
    private static let perMinute = 10
    private static let maximumWaiting = 32
    private static let minute: Int64 = 60_000_000_000

    private struct Waiting {
        var kind: Alarm.Kind
        var text: String
        var isRaised: Bool
        /// Whether something is to be told when it is over.
        var lasts: Bool
        /// It was said to be over before, or ended while this auditor did not run.
        var isRepeat = false
    }

    private var waiting: Deque<Waiting> = []
    /// Told as raised, on this connection or an earlier one, and not as over on an earlier one.
    private var told: Set<Alarm.Kind>
    /// Of those, told as over on this connection: nobody knows whether that arrives.
    private var ended: Set<Alarm.Kind> = []
    private var sentAt: Deque<Timestamp> = []
    private var lastSequence: Int64 = 0

    /// - Parameter told: what ``toldKinds`` was when the auditor ran last.
    init(told: [String]) {
        self.told = Set(told.map { Alarm.Kind(description: $0) })
    }

    /// What the other side may believe to last.
    var toldKinds: [String] { self.told.map(\.description).sorted() }

    /// - Parameter lasts: false for what has happened and is over.
    mutating func raise(_ kind: Alarm.Kind, _ text: String, lasts: Bool = true) {
        self.append(Waiting(kind: kind, text: text, isRaised: true, lasts: lasts))
    }

    mutating func clear(_ kind: Alarm.Kind) {
        // What never left need not be said to be over.
        self.waiting.removeAll { $0.kind == kind }
        if self.told.contains(kind), !self.ended.contains(kind) {
            self.append(Waiting(kind: kind, text: "", isRaised: false, lasts: true))
        }
    }

    /// The connection is another: what lasts is told again, and what does not.
    mutating func reset(lasting: [Alarm.Kind: String]) {
        for (kind, text) in lasting.sorted(by: { $0.key.description < $1.key.description })
        where !self.waiting.contains(where: { $0.kind == kind }) {
            self.append(Waiting(kind: kind, text: text, isRaised: true, lasts: true))
        }
        for kind in self.told.sorted(by: { $0.description < $1.description })
        where lasting[kind] == nil && !self.waiting.contains(where: { $0.kind == kind }) {
            self.append(Waiting(kind: kind, text: "", isRaised: false, lasts: true, isRepeat: true))
        }
        self.ended = []
    }

    private mutating func append(_ alert: Waiting) {
        if self.waiting.count >= Self.maximumWaiting { self.waiting.removeFirst() }
        self.waiting.append(alert)
    }

    /// The next one, and its number; nil if there is none, or too many were sent within a minute.
    mutating func next(at now: Timestamp) -> (alert: Alert, sequence: Int64)? {
        while let first = self.sentAt.first, now.nanoseconds - first.nanoseconds > Self.minute || now < first {
            self.sentAt.removeFirst()
        }
        guard self.sentAt.count < Self.perMinute, let next = self.waiting.popFirst(),
            let word = Reason(next.kind.description)
        else { return nil }
        self.sentAt.append(now)
        if next.lasts {
            if next.isRaised {
                self.told.insert(next.kind)
                self.ended.remove(next.kind)
            } else if next.isRepeat {
                self.told.remove(next.kind)
            } else {
                self.ended.insert(next.kind)
            }
        }
        // Milliseconds: above all earlier ones, also after a restart, without a place on the disk.
        self.lastSequence = max(self.lastSequence + 1, now.nanoseconds / 1_000_000)
        return (Alert(word, Self.line(next.text), isRaised: next.isRaised), self.lastSequence)
    }

    /// As an alert may say it.
    private static func line(_ text: String) -> String {
        var line = ""
        for scalar in text.unicodeScalars {
            let scalar = scalar.properties.generalCategory == .control ? " " : scalar
            guard line.utf8.count + UTF8.width(scalar) <= Alert.maximumTextLength else { break }
            line.unicodeScalars.append(scalar)
        }
        return line
    }
}
