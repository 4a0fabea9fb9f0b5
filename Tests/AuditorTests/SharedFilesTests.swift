import Auditor
import Foundation
import Identity
import Telemetry
import TestSupport
import Testing

/// A sum of decimals, exact.
struct ExactSum: Equatable {
    /// In units of 1e-18.
    private var value: Int128 = 0

    init() {}

    init(_ text: String) {
        let parts = text.split(separator: ".")
        let behind = parts.count > 1 ? String(parts[1]) : ""
        let padding = String(repeating: "0", count: 18 - behind.count)
        self.value = Int128(String(parts[0]) + behind + padding) ?? 0
    }

    mutating func add(_ decimal: ExactDecimal?) {
        guard let decimal else { return }
        var scaled = Int128(decimal.mantissa)
        for _ in 0..<(18 + Int(decimal.exponent)) { scaled *= 10 }
        self.value += scaled
    }
}

@Suite("Real readings", .enabled(if: SharedData.isPresent, "the shared folder is not there"))
struct SharedFilesTests {
    private func sums(_ readings: [Reading]) -> [String: ExactSum] {
        var sums: [String: ExactSum] = [:]
        for reading in readings { sums["\(reading.quantity)\(reading.part)", default: ExactSum()].add(reading.value) }
        return sums
    }

    @Test("the wide file has 11,904 readings of two auditors, and their sums are the file's")
    func wide() throws {
        let path = try #require(SharedData.path("data/prosumer-licore-wide.csv"))
        let file = try CSVFile(path: path, options: try options())
        #expect(file.form == .wide)
        #expect(try file.identifiers().map(\.rawValue) == ["auditor_mona", "auditor_lena"])
        let mona = try readAll(try file.source(for: try Identifier("auditor_mona")))
        let lena = try readAll(try file.source(for: try Identifier("auditor_lena")))
        #expect(mona.count + lena.count == 11_904)
        #expect(self.sums(mona) == ["consumption": ExactSum("340.5060"), "production": ExactSum("84.8300")])
        #expect(self.sums(lena) == ["consumption": ExactSum("407.3260"), "production": ExactSum("96.5700")])
        for readings in [mona, lena] {
            #expect(zip(readings, readings.dropFirst()).allSatisfy { $0.time <= $1.time })
            #expect(readings.allSatisfy { $0.flaw == nil })
        }
    }

    @Test("the Ausgrid year has 17,568 half hours in two columns, digits and sums exact")
    func ausgrid() throws {
        let path = try #require(SharedData.path("data/ausgrid-customer12-2011-2012-30min.csv"))
        let file = try CSVFile(
            path: path,
            options: try options {
                $0.columns = [try CSVColumn("GC=power_consumed:kW"), try CSVColumn("GG=power_produced:kW")]
                $0.interval = 1_800
                $0.timeZone = try LocalTimeZone("+10:00")
            })
        #expect(file.form == .series)
        let readings = try readAll(try file.source(for: try Identifier("home-1")))
        #expect(readings.count == 2 * 17_568)
        #expect(readings[6].value?.description == "0.48200000000000004")
        #expect(
            self.sums(readings) == [
                "power_consumed": ExactSum("11876.737999999999994810"),
                "power_produced": ExactSum("2592.807999999999993752"),
            ])
    }

    @Test("the year without changes of clock is refused where clocks were changed")
    func ausgridInLocalTime() throws {
        let path = try #require(SharedData.path("data/ausgrid-customer12-2011-2012-30min.csv"))
        let file = try CSVFile(
            path: path,
            options: try options {
                $0.columns = [try CSVColumn("GC=power_consumed:kW")]
                $0.timeZone = try LocalTimeZone("Australia/Sydney")
            })
        let error = #expect(throws: MeterSourceError(.timeSkipped, "")) {
            try readAll(try file.source(for: try Identifier("home-1")))
        }
        // 2 October 2011, 02:00: 93 days of 48 lines, 4 half hours, behind the line of names.
        #expect(error?.line == 93 * 48 + 4 + 2)
    }

    @Test("the registers come through with their sums")
    func registers() throws {
        let path = try #require(SharedData.path("data/homewizard-2022-09-15min-registers.csv"))
        let file = try CSVFile(
            path: path,
            options: try options {
                $0.columns = [
                    try CSVColumn("Import T1 kWh=consumption_total/t1:kWh"),
                    try CSVColumn("Import T2 kWh=consumption_total/t2:kWh"),
                    try CSVColumn("Export T1 kWh=production_total/t1:kWh"),
                    try CSVColumn("Export T2 kWh=production_total/t2:kWh"),
                ]
                $0.timeZone = try LocalTimeZone("Europe/Amsterdam")
            })
        let readings = try readAll(try file.source(for: try Identifier("home-1")))
        #expect(readings.count == 4 * 2_880)
        #expect(readings.allSatisfy { $0.interval == nil && $0.flaw == nil })
        #expect(
            self.sums(readings) == [
                "consumption_totalt1": ExactSum("25275866.349"), "consumption_totalt2": ExactSum("14113765.618"),
                "production_totalt1": ExactSum("9321398.438"), "production_totalt2": ExactSum("22277696.165"),
            ])
    }
}
