/// What happens when: a virtual clock and the events ahead of it, the earliest first, equal times in the
/// order in which they were put in. Nothing here knows the real time.
struct Schedule<Event> {
    private struct Entry {
        var time: Int64
        var order: UInt64
        var event: Event

        static func < (a: Entry, b: Entry) -> Bool { (a.time, a.order) < (b.time, b.order) }
    }

    /// Nanoseconds since 1970 UTC.
    private(set) var now: Int64
    private var heap: [Entry] = []
    private var order: UInt64 = 0

    init(startingAt now: Int64) {
        self.now = now
    }

    var isEmpty: Bool { self.heap.isEmpty }

    mutating func after(_ delay: Int64, _ event: Event) {
        self.at(self.now + max(0, delay), event)
    }

    mutating func at(_ time: Int64, _ event: Event) {
        self.order += 1
        self.heap.append(Entry(time: max(time, self.now), order: self.order, event: event))
        var child = self.heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard self.heap[child] < self.heap[parent] else { break }
            self.heap.swapAt(child, parent)
            child = parent
        }
    }

    /// Moves the clock to the next event and takes it.
    mutating func next() -> Event? {
        guard let last = self.heap.popLast() else { return nil }
        guard let first = self.heap.first else {
            self.now = last.time
            return last.event
        }
        self.heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < self.heap.count {
                if self.heap[child] < self.heap[least] { least = child }
            }
            if least == parent { break }
            self.heap.swapAt(parent, least)
            parent = least
        }
        self.now = first.time
        return first.event
    }
}

extension Int64 {
    static func milliseconds(_ n: Int64) -> Int64 { n * 1_000_000 }
    static func seconds(_ n: Int64) -> Int64 { n * 1_000_000_000 }
}
