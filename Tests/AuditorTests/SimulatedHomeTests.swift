import Auditor
import Identity
import Telemetry
import Testing

@Suite("Simulated home") struct SimulatedHomeTests {
    private func home(seed: UInt64 = 7, count: Int? = 7 * 96, interval: Int = 900) throws -> SimulatedHome {
        // Monday, 2 June 2025, 00:00 UTC.
        SimulatedHome(
            .init(
                seed: seed, meter: try MeterName("main"), start: Timestamp(seconds: 1_748_822_400), interval: interval,
                count: count))
    }

    @Test("the same seed is the same home, another is another")
    func seeded() throws {
        #expect(try readAll(try self.home()) == (try readAll(try self.home())))
        #expect(try readAll(try self.home(seed: 8)) != (try readAll(try self.home())))
    }

    @Test("registers are the sums of the intervals to the last digit")
    func registers() throws {
        let readings = try readAll(try self.home())
        for (energy, register) in [(Quantity.consumption, Quantity.consumptionTotal), (.production, .productionTotal)] {
            let energies = readings.filter { $0.quantity == energy }.compactMap(\.value?.mantissa)
            let registers = readings.filter { $0.quantity == register }.compactMap(\.value?.mantissa)
            #expect(energies.count == 7 * 96)
            for index in registers.indices.dropFirst() {
                #expect(registers[index] - registers[index - 1] == energies[index])
            }
        }
        #expect(readings.allSatisfy { $0.flaw == nil && $0.value?.exponent == -3 })
    }

    @Test("it looks like a home: never dark, no sun at night, sun at noon, evenings above nights")
    func plausible() throws {
        let readings = try readAll(try self.home())
        func mean(_ quantity: Quantity, _ hours: Range<Int64>) -> Double {
            let values = readings.filter { $0.quantity == quantity && hours.contains($0.time.seconds / 3_600 % 24) }
                .compactMap { $0.value?.approximation }
            return values.reduce(0, +) / Double(max(values.count, 1))
        }
        #expect(readings.filter { $0.quantity == .consumption }.allSatisfy { ($0.value?.mantissa ?? 0) > 0 })
        #expect(mean(.production, 0..<3) == 0)
        #expect(mean(.production, 11..<13) > 0.05)
        #expect(mean(.consumption, 19..<21) > 1.5 * mean(.consumption, 1..<4))
        let day =
            readings.filter { $0.quantity == .consumption }.compactMap { $0.value?.approximation }.reduce(0, +) / 7
        #expect((2...40).contains(day))
    }

    @Test("a home that is resumed goes on as if it had never stopped", arguments: [1, 10, 100])
    func resumes(_ count: Int) throws {
        var first = try self.home()
        var given: [Reading] = []
        var position: SourcePosition?
        for _ in 0..<count {
            let batch = try #require(try first.next())
            given += batch.readings
            position = batch.position
        }
        // Started later, it would begin later; the position knows better.
        var second = SimulatedHome(
            .init(seed: 7, meter: try MeterName("main"), start: Timestamp(seconds: 1_900_000_000), count: 7 * 96))
        try second.resume(at: try #require(position))
        #expect(given + (try readAll(second)) == (try readAll(try self.home())))
    }

    @Test("another home's position is refused")
    func otherHome() throws {
        var home = try self.home()
        let position = try #require(try home.next()).position
        var other = try self.home(seed: 9)
        #expect(throws: MeterSourceError(.changed, "")) { try other.resume(at: position) }
    }
}
