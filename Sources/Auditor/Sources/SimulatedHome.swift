import Foundation
public import Identity
public import Telemetry

/// A home that does not exist, with a solar roof: what its meter would say, for demonstrations and tests.
///
/// The load has a day's curve, a refrigerator, appliances that come and go, and noise; the roof has the sun's
/// height, the season and passing clouds. Every number is a function of the seed and the time alone, so that the
/// same home has the same past whenever it is asked, and a source that resumes goes on as if it had never stopped.
/// Energy is exact to the watt-hour, over less than a minute to a thousandth of it, and the registers are the sums of
/// the intervals to the last digit.
public struct SimulatedHome: MeterSource {
    /// What kind of home it is.
    public struct Configuration: Hashable, Sendable {
        /// The earliest second that a reading can be of, since 1970: in July 1978 (RFC 8428 section 4.5.3).
        public static let earliestStart: Int64 = 1 << 28

        public var seed: UInt64
        public var meter: MeterName
        /// The start of the first interval.
        public var start: Timestamp
        /// The length of an interval in seconds, 1 to 86,400.
        public var interval: Int
        /// How many intervals there are; `nil`: without end.
        public var count: Int?

        public init(seed: UInt64, meter: MeterName, start: Timestamp, interval: Int = 900, count: Int? = nil) {
            self.seed = seed
            self.meter = meter
            self.start = start
            self.interval = min(max(interval, 1), 86_400)
            self.count = count
        }
    }

    private let configuration: Configuration
    private let character: Character
    /// The length of an interval in nanoseconds; the configuration's, until ``sample(every:takesBack:at:)``.
    private var interval: Int64
    /// The next interval is as long as it takes to end here.
    private var cut: Int64?
    private var state: State
    /// Before the newest batch.
    private var former: State

    private struct State {
        /// The start of the next interval, nanoseconds since 1970.
        var next: Int64
        /// How many intervals have been given.
        var index: Int64 = 0
        /// The registers, in thousandths of a Wh.
        var consumed: Int64
        var produced: Int64
    }

    public init(_ configuration: Configuration) {
        self.configuration = configuration
        self.character = Character(seed: configuration.seed)
        self.interval = Int64(configuration.interval) * 1_000_000_000
        self.state = State(
            next: configuration.start.nanoseconds, consumed: self.character.consumedBefore * 1_000,
            produced: self.character.producedBefore * 1_000)
        self.former = self.state
    }

    /// Continues; the position remembers the registers and where the home is, whatever the configuration says.
    public mutating func resume(at position: SourcePosition) throws(MeterSourceError) {
        guard let state = self.state(at: position) else {
            throw MeterSourceError(
                .changed,
                "the state directory belongs to another source or another home; give this one a state directory of its own"
            )
        }
        self.state = state
        self.former = state
    }

    private func state(at position: SourcePosition) -> State? {
        var coder = PositionCoder(bytes: position.bytes)
        guard let version: UInt8 = coder.read(), let seed: UInt64 = coder.read(), seed == self.configuration.seed,
            let first: Int64 = coder.read(), let second: Int64 = coder.read(), let third: Int64 = coder.read(),
            let consumed: Int64 = coder.read()
        else { return nil }
        switch version {
        case 2:
            // Interval in seconds, start, index and registers in Wh, as homes of one rate had them.
            guard let produced: Int64 = coder.read(), coder.bytes.isEmpty, (1...86_400).contains(first),
                (0...Timestamp.wireSecondsLimit).contains(third)
            else { return nil }
            return State(
                next: second &+ first &* third &* 1_000_000_000, index: third, consumed: consumed &* 1_000,
                produced: produced &* 1_000)
        case 3:
            guard coder.bytes.isEmpty else { return nil }
            return State(next: first, index: second, consumed: third, produced: consumed)
        default: return nil
        }
    }

    public mutating func sample(every interval: Int64, takesBack: Bool, at now: Timestamp?) -> Bool {
        self.interval = min(max(interval, 1_000_000), Self.longest)
        if takesBack { self.state = self.former }
        self.cut = now?.nanoseconds
        return true
    }

    public mutating func next() throws(MeterSourceError) -> SourceBatch? {
        if let count = self.configuration.count, self.state.index >= Int64(count) { return nil }
        let limit = Timestamp.wireSecondsLimit * 1_000_000_000
        guard self.state.next >= Configuration.earliestStart * 1_000_000_000, self.state.next < limit - self.interval
        else { return nil }
        self.former = self.state
        let past = (self.cut ?? 0) - self.state.next
        let length = past > self.interval && past <= Self.longest ? past : self.interval
        self.cut = nil
        let energy = self.character.energy(from: self.state.next, interval: length)
        self.state.consumed += energy.consumed
        self.state.produced += energy.produced
        self.state.index += 1
        self.state.next += length
        let begin = Timestamp(nanoseconds: self.former.next)
        let end = Timestamp(nanoseconds: self.state.next)
        let readings = [
            self.reading(.consumption, begin, length, energy.consumed),
            self.reading(.production, begin, length, energy.produced),
            self.reading(.consumptionTotal, end, nil, self.state.consumed),
            self.reading(.productionTotal, end, nil, self.state.produced),
        ]
        return SourceBatch(readings: readings, available: end, position: self.position)
    }

    /// The longest interval, in nanoseconds.
    private static let longest: Int64 = 86_400_000_000_000

    private var position: SourcePosition {
        var coder = PositionCoder()
        coder.write(UInt8(3))
        coder.write(self.configuration.seed)
        coder.write(self.state.next)
        coder.write(self.state.index)
        coder.write(self.state.consumed)
        coder.write(self.state.produced)
        return SourcePosition(bytes: coder.bytes)
    }

    /// In kWh; with the digits of thousandths of a Wh only where they are not zeros, or the interval is short.
    private func reading(_ quantity: Quantity, _ time: Timestamp, _ interval: Int64?, _ energy: Int64) -> Reading {
        let isCoarse = energy % 1_000 == 0 && self.interval >= Character.coarse
        return Reading(
            meter: self.configuration.meter, quantity: quantity, unit: .kilowattHour, time: time, interval: interval,
            value: isCoarse
                ? ExactDecimal(mantissa: energy / 1_000, exponent: -3) : ExactDecimal(mantissa: energy, exponent: -6))
    }
}

/// What is particular to one home, drawn from its seed.
private struct Character: Hashable {
    private let seed: UInt64
    /// Watts that are always there.
    private let standby: Double
    private let fridgePeriod: Double
    private let fridgePhase: Double
    /// How large the evening is, in watts.
    private let evening: Double
    private let morning: Double
    /// The roof's peak, in watts.
    private let peak: Double
    private let latitude: Double
    /// What the registers said when the home began, in Wh.
    let consumedBefore: Int64
    let producedBefore: Int64

    init(seed: UInt64) {
        self.seed = seed
        func draw(_ number: UInt64, _ range: ClosedRange<Double>) -> Double {
            range.lowerBound + (range.upperBound - range.lowerBound) * Self.unit(seed, 0, number)
        }
        self.standby = draw(1, 60...160)
        self.fridgePeriod = draw(2, 2_400...4_200)
        self.fridgePhase = draw(3, 0...1)
        self.evening = draw(4, 350...1_100)
        self.morning = draw(5, 150...600)
        self.peak = draw(6, 1_500...6_000)
        self.latitude = draw(7, 36...50)
        self.consumedBefore = Int64(draw(8, 1_000_000...30_000_000))
        self.producedBefore = Int64(draw(9, 500_000...25_000_000))
    }

    /// From this interval on, in nanoseconds, energy is given in whole Wh.
    static let coarse: Int64 = 60_000_000_000

    /// The energy of one interval in thousandths of a Wh, summed over at most 60 moments in it.
    ///
    /// - Parameters:
    ///   - start: Nanoseconds since 1970.
    ///   - interval: In nanoseconds.
    func energy(from start: Int64, interval: Int64) -> (consumed: Int64, produced: Int64) {
        let steps = min(60, max(1, interval / Self.coarse))
        let length = Double(interval) / 1e9 / Double(steps)
        var load = 0.0
        var sun = 0.0
        for step in 0..<steps {
            let time = Double(start) / 1e9 + (Double(step) + 0.5) * length
            load += self.load(at: time) * length
            sun += self.sun(at: time) * length
        }
        func rounded(_ wattSeconds: Double) -> Int64 {
            interval >= Self.coarse
                ? Int64((wattSeconds / 3_600).rounded()) * 1_000 : Int64((wattSeconds / 3.6).rounded())
        }
        return (rounded(load), rounded(sun))
    }

    /// Watts taken at a moment.
    private func load(at time: Double) -> Double {
        let day = (time / 86_400).rounded(.down)
        let hour = (time - day * 86_400) / 3_600
        func bump(_ center: Double, _ width: Double) -> Double {
            let distance = (hour - center) / width
            return exp(-distance * distance)
        }
        var watts = self.standby
        watts += self.morning * bump(7.5, 1.3) + 0.4 * self.morning * bump(13, 1.8) + self.evening * bump(20, 2.6)
        let fridge = time / self.fridgePeriod + self.fridgePhase
        if fridge - fridge.rounded(.down) < 0.35 { watts += 85 }
        // Each quarter of an hour an appliance may run for part of it, likelier when people are awake.
        let quarter = (time / 900).rounded(.down)
        let awake = 0.02 + 0.2 * bump(7.5, 1.5) + 0.12 * bump(13, 2) + 0.3 * bump(20, 3)
        let slot = UInt64(bitPattern: Int64(quarter))
        if self.unit(10, slot) < awake {
            let appliances: [Double] = [900, 1_200, 1_800, 2_000, 2_200]
            let index = min(Int(self.unit(11, slot) * 5), 4)
            let share = 0.15 + 0.8 * self.unit(12, slot)
            if time - quarter * 900 < 900 * share { watts += appliances[index] }
        }
        let minute = UInt64(bitPattern: Int64((time / 60).rounded(.down)))
        return watts * (0.94 + 0.12 * self.unit(13, minute))
    }

    /// Watts from the roof at a moment; the home lies on the meridian of Greenwich.
    private func sun(at time: Double) -> Double {
        let day = (time / 86_400).rounded(.down)
        let hour = (time - day * 86_400) / 3_600
        let declination = 23.44 * sin((day - 79) / 365.25 * 2 * .pi) * .pi / 180
        let latitude = self.latitude * .pi / 180
        let angle = (hour - 12) / 12 * .pi
        let height = sin(latitude) * sin(declination) + cos(latitude) * cos(declination) * cos(angle)
        guard height > 0.02 else { return 0 }
        let clearness = 0.25 + 0.75 * self.unit(20, UInt64(bitPattern: Int64(day)))
        // Clouds pass in ten minutes; between two of them it changes evenly.
        let pass = time / 600
        let number = UInt64(bitPattern: Int64(pass.rounded(.down)))
        let share = pass - pass.rounded(.down)
        let cloud = (1 - share) * self.unit(21, number) + share * self.unit(21, number &+ 1)
        return self.peak * pow(height, 1.15) * clearness * (1 - (1 - clearness) * 0.7 * cloud)
    }

    private func unit(_ topic: UInt64, _ number: UInt64) -> Double { Self.unit(self.seed, topic, number) }

    /// A number in 0..<1 that depends on nothing but the arguments (SplitMix64's finaliser).
    private static func unit(_ seed: UInt64, _ topic: UInt64, _ number: UInt64) -> Double {
        var z = seed &+ topic &* 0x9E37_79B9_7F4A_7C15 &+ number &* 0xD1B5_4A32_D192_ED03
        for _ in 0..<2 {
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            z = z ^ (z >> 31)
        }
        return Double(z >> 11) * 0x1p-53
    }
}
