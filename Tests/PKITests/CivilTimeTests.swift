import Foundation
import PKI
import Testing

@Suite struct CivilTimeTests {
    @Test(
        "Moments are written in UTC",
        arguments: [
            (0, "1970-01-01T00:00:00Z"), (951_782_400, "2000-02-29T00:00:00Z"), (-1, "1969-12-31T23:59:59Z"),
            (1_795_348_800, "2026-11-22T12:00:00Z"), (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"), (Int64.max, "9999-12-31T23:59:59Z"),
            (Int64.min, "0000-01-01T00:00:00Z"),
        ] as [(UnixTime, String)])
    func written(time: UnixTime, text: String) {
        #expect(CivilTime(time).iso8601 == text)
    }

    @Test("The calendar goes both ways over 400 years and agrees with Foundation")
    func bothWays() {
        let formatter = ISO8601DateFormatter()
        for time in stride(from: UnixTime(-6_000_000_000), to: 9_000_000_000, by: 9_999_991) {
            #expect(CivilTime(time).unixTime == time)
            #expect(CivilTime(time).iso8601 == formatter.string(from: Date(timeIntervalSince1970: Double(time))))
        }
    }
}
