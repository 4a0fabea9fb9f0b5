import Auditor
import Identity
import Telemetry

extension FuzzTarget {
    /// Files of readings in all forms, up to the last reading.
    public static let csv: [FuzzTarget] = {
        guard let meter = try? MeterName("main"), let column = try? CSVColumn("GC=power_consumed:kW"),
            let madrid = try? LocalTimeZone("Europe/Madrid")
        else { return [] }
        var options = CSVOptions(meter: meter)
        options.columns = [column]
        options.timeZone = madrid
        options.limits.recordBytes = 2_048
        options.limits.fields = 128
        let wide =
            "ID;Consumo (0) / Producción (1);Dia;Mes ;Año;" + (0..<96).map(String.init).joined(separator: ";") + "\n"
            + "a;0;29;3;2020;" + (0..<96).map { "0.\($0)" }.joined(separator: ";") + "\n"
            + "a;1;1;7;2020;" + (0..<96).map { _ in "" }.joined(separator: ";") + "\n"
        let seeds = [
            "id,datetime,type,value\na,2020-10-25 01:30:00,0,0.48200000000000004\nb,01/07/2020 00:15,1,1e-3\n",
            "\u{FEFF}\"id\";\"datetime\";\"type\";\"value\"\r\n\"a\";\"2020-01-01T00:00:00.5+02:00\";\"1\";\"1,5\"\r\n",
            ",GC,GG\n2011-07-01 00:00:00,0.392,0.0\n1309478400,,-1\n", wide,
        ].map { Array($0.utf8) }
        return [
            FuzzTarget("CSV", seeds: seeds) { [options] bytes in
                guard let file = try? CSVFile(bytes: bytes, name: "fuzz", options: options) else { return }
                let identifiers = (try? file.identifiers()) ?? []
                for identifier in identifiers.prefix(4) + [Self.anyone].compactMap({ $0 }) {
                    guard var source = try? file.source(for: identifier) else { continue }
                    var last: Timestamp?
                    while let batch = try? source.next() {
                        precondition((1...SourceBatch.maximumReadings).contains(batch.readings.count))
                        precondition(batch.position.bytes.count <= SourcePosition.maximumLength)
                        for reading in batch.readings {
                            precondition(reading.flaw == nil, "a reading that cannot be told")
                            precondition(last ?? reading.time <= reading.time, "out of order")
                            last = reading.time
                        }
                    }
                }
            }
        ]
    }()

    private static let anyone = try? Identifier("a")
}
