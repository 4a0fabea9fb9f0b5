import Crypto
import Foundation
import FuzzTargets
import Identity
import LiCore
import Telemetry
import TestSupport
import Testing

/// A key that is always the same, and messages by it.
struct LiCoreSample {
    let key: P256.Signing.PrivateKey

    init() throws { self.key = try P256.Signing.PrivateKey(rawRepresentation: [UInt8](repeating: 7, count: 32)) }

    func message(_ text: String) throws -> [UInt8] {
        let signature = try self.key.signature(for: BLAKE2b512.hash(data: Array(text.utf8)))
        return Array("\(text)||\(Self.hex(signature.derRepresentation))".utf8)
    }

    static func hex(_ bytes: some Sequence<UInt8>) -> String { bytes.map { String(format: "%02x", $0) }.joined() }
}

@Suite("The original's text format")
struct FormatTests {
    let sample: LiCoreSample

    init() throws { self.sample = try LiCoreSample() }

    struct Taken: Sendable, CustomTestStringConvertible {
        let text: String
        let seconds: Int64
        let kind: Measure.Kind
        let value: String

        var testDescription: String { self.text }
    }

    @Test(
        "is read digit for digit",
        arguments: [
            Taken(text: "mona/2011-07-01 00:15:00/0/0.098", seconds: 1_309_479_300, kind: .consumption, value: "0.098"),
            Taken(text: "mona/2011-07-01 00:15/1/0.30", seconds: 1_309_479_300, kind: .production, value: "0.30"),
            Taken(text: "m/2011-07-01T00:15:00/0/7", seconds: 1_309_479_300, kind: .consumption, value: "7"),
            Taken(text: "m/2011-07-01/0/-1.50", seconds: 1_309_478_400, kind: .consumption, value: "-1.50"),
            Taken(
                text: "auditor_mona/2011-07-01 00:00:00/0/0.48200000000000004", seconds: 1_309_478_400,
                kind: .consumption, value: "0.48200000000000004"),
            Taken(text: "m/2011-07-01/0/5e-05", seconds: 1_309_478_400, kind: .consumption, value: "0.00005"),
        ])
    func takes(_ taken: Taken) throws {
        let text = try SignedText(self.sample.message(taken.text))
        #expect(text.isSigned(by: self.sample.key.publicKey))
        #expect(!text.isSigned(by: P256.Signing.PrivateKey().publicKey))
        let measure = try Measure(text: text.text)
        #expect(measure.date.seconds == taken.seconds)
        #expect(measure.kind == taken.kind)
        #expect(measure.value.description == taken.value)
    }

    struct Refused: Sendable, CustomTestStringConvertible {
        let text: String
        let code: LiCoreError.Code

        init(_ text: String, _ code: LiCoreError.Code) {
            self.text = text
            self.code = code
        }

        var testDescription: String { self.text }
    }

    @Test(
        "is refused when a field is none",
        arguments: [
            Refused("mona/2011-07-01 00:15:00/0", .shape), Refused("mona/2011-07-01/0/1/2", .shape),
            Refused("mona", .shape), Refused("/2011-07-01/0/1", .identifier), Refused("-m/2011-07-01/0/1", .identifier),
            Refused("all/2011-07-01/0/1", .identifier), Refused("m//0/1", .date), Refused("m/2011-02-30/0/1", .date),
            Refused("m/2011-07-01 24:00/0/1", .date), Refused("m/9999-12-31 23:59:59/0/1", .date),
            Refused("m/2243-01-01/0/1", .date), Refused("m/1309479300/0/1", .date),
            Refused("m/2011-07-01 00:15:00Z/0/1", .date), Refused("m/2011-07-01 00:15:00+02:00/0/1", .date),
            Refused("m/01.07.2011/0/1", .date), Refused("m/2011-07-01/2/1", .type), Refused("m/2011-07-01//1", .type),
            Refused("m/2011-07-01/00/1", .type), Refused("m/2011-07-01/0/", .value),
            Refused("m/2011-07-01/0/nan", .value),
            Refused("m/2011-07-01/0/1,5", .value), Refused("m/2011-07-01/0/ 1", .value),
            Refused("m/2011-07-01/0/0x1", .value), Refused("m/2011-07-01/0/99999999999999999999", .value),
            Refused("m/2011-07-01/0/0.0000000000000000001", .value), Refused("m/2011-07-01/0/1e99", .value),
        ])
    func refuses(_ refused: Refused) throws {
        let text = try SignedText(self.sample.message(refused.text))
        #expect(throws: LiCoreError(refused.code, "")) { try Measure(text: text.text) }
    }

    /// A good signature in other forms; each would verify in a lax reader.
    private func frames() throws -> [(String, LiCoreError.Code)] {
        let good = String(decoding: try self.sample.message("m/2011-07-01/0/1"), as: UTF8.self)
        let bar = try #require(good.range(of: "||"))
        let text = good[..<bar.lowerBound]
        let digits = String(good[bar.upperBound...])
        let r = String(repeating: "11", count: 32)
        let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"
        var frames: [(String, LiCoreError.Code)] = []
        func add(_ code: LiCoreError.Code, _ messages: String...) { frames += messages.map { ($0, code) } }
        add(
            .shape, "\(text)|\(digits)", "\(text)", "||\(digits)", "", "|", "\(text)\u{7}||\(digits)",
            "ñ\(text)||\(digits)")
        add(.signature, "\(text)||", "\(text)|||\(digits)", "\(text)||\(digits.uppercased())", "\(text)||\(digits)0")
        add(
            .signature, "\(text)||\(digits)00", "\(text)|| \(digits)", "\(text)||\(digits)\n",
            "\(text)||\(digits)||\(digits)")
        // Longer length, negative r, a needless zero, r = 0, r = n, one integer only, another tag, s = 0.
        for der in [
            "3081440220\(r)0220\(r)", "3044022091\(r.dropFirst(2))0220\(r)", "3045022100\(r)0220\(r)",
            "30250201000220\(r)", "3045022100\(order)0220\(r)", "30220220\(r)", "31440220\(r)0220\(r)",
            "3006020101020100",
        ] {
            add(.signature, "\(text)||\(der)")
        }
        add(.tooLarge, String(repeating: "m", count: 600))
        return frames
    }

    @Test("is refused when the frame or the signature has another form")
    func refusesFrames() throws {
        for (message, code) in try self.frames() {
            #expect(throws: LiCoreError(code, ""), "\(message)") { try SignedText(Array(message.utf8)) }
        }
        // These digits themselves are read, so the forms above fail for what they say.
        let r = String(repeating: "11", count: 32)
        #expect(throws: Never.self) { try SignedText(Array("m||30440220\(r)0220\(r)".utf8)) }
        #expect(throws: Never.self) { try SignedText(Array("m||3006020101020101".utf8)) }
    }

    @Test("verifies only as it was: every byte of the text counts")
    func everyByte() throws {
        let message = try self.sample.message("mona/2011-07-01 00:15:00/0/0.098")
        let length = try SignedText(message).text.count
        for index in 0..<length {
            var changed = message
            changed[index] ^= 1
            let text = try? SignedText(changed)
            #expect(text?.isSigned(by: self.sample.key.publicKey) != true, "byte \(index)")
        }
    }

    @Test("is written as it is read")
    func writes() throws {
        let date = LocalTime(seconds: 1_309_479_300)
        let measure = try Measure(
            id: try Identifier("mona"), date: date, kind: .production, value: try #require(ExactDecimal("0.30")))
        #expect(measure.text == "mona/2011-07-01 00:15:00/1/0.30")
        let message = try measure.message { try self.sample.key.signature(for: $0) }
        let text = try SignedText(message)
        #expect(text.isSigned(by: self.sample.key.publicKey))
        #expect(try Measure(text: text.text) == measure)
        let update = try ParameterUpdate(value: "0.2")
        let frame = try SignedText(update.message { try self.sample.key.signature(for: $0) })
        #expect(frame.isSigned(by: self.sample.key.publicKey))
        #expect(try ParameterUpdate(text: frame.text) == update)
        for value in ["", "a|b", "é", String(repeating: "1", count: 65)] {
            #expect(throws: LiCoreError(.value, "")) { try ParameterUpdate(value: value) }
        }
    }

    @Test("is read or refused whatever comes, and never more", arguments: ["LiCore", "Fleet"])
    func fuzz(_ name: String) throws {
        let target = try #require(FuzzTarget.licore.first { $0.name == name })
        #expect(target.seeds.count == (name == "LiCore" ? 4 : 1))
        try target.fuzz(count: 20_000, seed: 7_693)
    }
}
