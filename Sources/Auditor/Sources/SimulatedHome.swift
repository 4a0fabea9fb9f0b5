import Foundation
public import Identity
public import Telemetry

/// A home that does not exist, with a solar roof: what its meter would say, for demonstrations and tests.
///
/// The load has a day's curve, a refrigerator, appliances that come and go, and noise; the roof has the sun's
/// height, the season and passing clouds. Every number is a function of the seed and the time alone, so that the
/// same home has the same past whenever it is asked, and a source that resumes goes on as if it had never stopped.
/// Energy is exact to the watt-hour, and the registers are the sums of the intervals to the last digit.
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
    /// The start of the first interval; the configuration's, until a position says otherwise.
    private var start: Timestamp
    /// How many intervals have been given.
    private var index: Int64 = 0
    /// The registers, in Wh.
    private var consumed: Int64
    private var produced: Int64

    public init(_ configuration: Configuration) {
        self.configuration = configuration
        self.character = Character(seed: configuration.seed)
        self.start = configuration.start
        self.consumed = self.character.consumedBefore
        self.produced = self.character.producedBefore
    }

    /// Continues; the position remembers the registers and when the home began, whatever the configuration says.
    public mutating func resume(at position: SourcePosition) throws(MeterSourceError) {
        var coder = PositionCoder(bytes: position.bytes)
        guard coder.read(UInt8.self) == 2, let seed: UInt64 = coder.read(), let interval: Int64 = coder.read(),
            let start: Int64 = coder.read(), let index: Int64 = coder.read(), let consumed: Int64 = coder.read(),
            let produced: Int64 = coder.read(), coder.bytes.isEmpty,
            seed == self.configuration.seed, interval == Int64(self.configuration.interval)
        else {
            throw MeterSourceError(
                .changed,
                "the state directory belongs to another source or another home; give this one a state directory of its own"
            )
        }
        self.start = Timestamp(nanoseconds: start)
        self.index = index
        self.consumed = consumed
        self.produced = produced
    }

    public mutating func next() throws(MeterSourceError) -> SourceBatch? {
        if let count = self.configuration.count, self.index >= Int64(count) { return nil }
        let interval = Int64(self.configuration.interval)
        let (offset, overflow) = self.index.multipliedReportingOverflow(by: interval)
        let seconds = self.start.seconds + (overflow ? Timestamp.wireSecondsLimit : offset)
        guard seconds >= 1 << 28, seconds + interval < Timestamp.wireSecondsLimit else { return nil }
        let energy = self.character.energy(from: seconds, interval: interval)
        self.consumed += energy.consumed
        self.produced += energy.produced
        self.index += 1
        let begin = Timestamp(seconds: seconds)
        let end = Timestamp(seconds: seconds + interval)
        let readings = [
            self.reading(.consumption, begin, interval, energy.consumed),
            self.reading(.production, begin, interval, energy.produced),
            self.reading(.consumptionTotal, end, nil, self.consumed),
            self.reading(.productionTotal, end, nil, self.produced),
        ]
        return SourceBatch(readings: readings, available: end, position: self.position)
    }

    private var position: SourcePosition {
        var coder = PositionCoder()
        coder.write(UInt8(2))
        coder.write(self.configuration.seed)
        coder.write(Int64(self.configuration.interval))
        coder.write(self.start.nanoseconds)
        coder.write(self.index)
        coder.write(self.consumed)
        coder.write(self.produced)
        return SourcePosition(bytes: coder.bytes)
    }

    private func reading(_ quantity: Quantity, _ time: Timestamp, _ interval: Int64?, _ wattHours: Int64) -> Reading {
        Reading(
            meter: self.configuration.meter, quantity: quantity, unit: .kilowattHour, time: time,
            interval: interval.map { $0 * 1_000_000_000 },
            value: ExactDecimal(mantissa: wattHours, exponent: -3))
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

    /// The energy of one interval in Wh, summed over at most 60 moments in it.
    func energy(from start: Int64, interval: Int64) -> (consumed: Int64, produced: Int64) {
        let steps = min(60, max(1, interval / 60))
        let length = Double(interval) / Double(steps)
        var load = 0.0
        var sun = 0.0
        for step in 0..<steps {
            let time = Double(start) + (Double(step) + 0.5) * length
            load += self.load(at: time) * length
            sun += self.sun(at: time) * length
        }
        return (Int64((load / 3_600).rounded()), Int64((sun / 3_600).rounded()))
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
