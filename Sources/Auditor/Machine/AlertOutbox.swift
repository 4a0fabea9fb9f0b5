import DequeModule
import Telemetry

/// An auditor's own alerts on their way to its control center: what is raised, and what is over. They are hints: they
/// are not in the stream, and what does not arrive is told again on the next connection as long as it lasts.
struct AlertOutbox {
    private static let perMinute = 10
    private static let maximumWaiting = 32
    private static let minute: Int64 = 60_000_000_000

    private var waiting: Deque<(kind: Alarm.Kind, text: String, isRaised: Bool)> = []
    /// Told as raised on this connection or an earlier one.
    private var told: Set<Alarm.Kind> = []
    private var sentAt: Deque<Timestamp> = []
    private var lastSequence: Int64 = 0

    mutating func raise(_ kind: Alarm.Kind, _ text: String) {
        self.append((kind, text, true))
    }

    mutating func clear(_ kind: Alarm.Kind) {
        // What never left need not be said to be over.
        self.waiting.removeAll { $0.kind == kind }
        if self.told.contains(kind) { self.append((kind, "", false)) }
    }

    /// The connection was lost: what lasts is told again.
    mutating func reset(lasting: [Alarm.Kind: String]) {
        for (kind, text) in lasting.sorted(by: { $0.key.description < $1.key.description })
        where !self.waiting.contains(where: { $0.kind == kind }) {
            self.append((kind, text, true))
        }
    }

    private mutating func append(_ alert: (kind: Alarm.Kind, text: String, isRaised: Bool)) {
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
        if next.isRaised { self.told.insert(next.kind) } else { self.told.remove(next.kind) }
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
