import Telemetry

/// The store with what a batch in the making adds to it: later messages of a batch see what earlier ones did.
struct StoreOverlay<Store: LedgerStore>: LinkSource {
    private struct Place: Hashable {
        var stream: Int64
        var sequence: Int64
    }

    var store: Store
    private var links: [Place: StoredLink] = [:]

    init(_ store: Store) {
        self.store = store
    }

    mutating func add(_ link: Link, stream: Int64) {
        self.links[Place(stream: stream, sequence: link.sequence)] = StoredLink(id: link.id, previous: link.previous)
    }

    /// The batch is in the store now, or given up.
    mutating func clear() {
        self.links.removeAll(keepingCapacity: true)
    }

    func link(stream: Int64, sequence: Int64) throws -> StoredLink {
        if let link = self.links[Place(stream: stream, sequence: sequence)] { return link }
        if let link = try self.store.link(stream: stream, sequence: sequence) { return link }
        throw ControlCenterError(
            .storeDamaged, "statement \(sequence) of stream \(stream) is held but not stored: restore a copy")
    }
}

extension StoreOverlay: Sendable where Store: Sendable {}
