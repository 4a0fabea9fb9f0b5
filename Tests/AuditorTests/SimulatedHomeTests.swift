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

@Suite("Simulated home at another rate") struct SampleRateTests {
    private func home() throws -> SimulatedHome {
        SimulatedHome(.init(seed: 7, meter: try MeterName("main"), start: Timestamp(seconds: 1_748_822_400)))
    }

    @Test("five readings a second: without a hole, registers to the last digit")
    func fast() throws {
        var home = try self.home()
        let first = try #require(try home.next())
        let unused = try #require(try home.next())
        let takes1 = home.sample(every: 200_000_000, takesBack: true, at: nil)
        #expect(takes1)
        var end = first.available
        var register = first.readings[2].value
        for _ in 0..<20 {
            let batch = try #require(try home.next())
            #expect(batch.readings[0].time == end)
            #expect(batch.readings[0].interval == 200_000_000)
            #expect(batch.readings.allSatisfy { $0.flaw == nil })
            let (energy, next) = (batch.readings[0].value, batch.readings[2].value)
            #expect(micro(next) - micro(register) == micro(energy))
            #expect(micro(energy) > 0)
            register = next
            end = batch.available
        }
        #expect(end == first.available.advanced(byNanoseconds: 20 * 200_000_000))
        #expect(unused.available > end)
    }

    @Test("what has passed of an interval is one reading, and the new rate begins now")
    func cut() throws {
        var home = try self.home()
        let first = try #require(try home.next())
        _ = try home.next()
        let now = first.available.advanced(byNanoseconds: 400_500_000_000)
        let takes2 = home.sample(every: 1_000_000_000, takesBack: true, at: now)
        #expect(takes2)
        let past = try #require(try home.next())
        #expect(past.readings[0].time == first.available)
        #expect(past.readings[0].interval == 400_500_000_000)
        let next = try #require(try home.next())
        #expect(next.readings[0].interval == 1_000_000_000)
    }

    @Test("a home goes on from where it was, also at another rate")
    func resumes() throws {
        var home = try self.home()
        _ = try home.next()
        let takes3 = home.sample(every: 200_000_000, takesBack: false, at: nil)
        #expect(takes3)
        let batch = try #require(try home.next())
        var again = try self.home()
        try again.resume(at: batch.position)
        let takes4 = again.sample(every: 200_000_000, takesBack: false, at: nil)
        #expect(takes4)
        let (left, right) = (try again.next(), try home.next())
        #expect(left == right)
    }

    /// In thousandths of a Wh.
    private func micro(_ value: ExactDecimal?) -> Int64 {
        guard let value else { return 0 }
        return value.exponent == -6 ? value.mantissa : value.mantissa * 1_000
    }
}
