import Crypto
import Identity
import LiCore
import Telemetry

extension FuzzTarget {
    /// The original's text, and fleet files.
    public static let licore: [FuzzTarget] = {
        guard let key = try? P256.Signing.PrivateKey(rawRepresentation: [UInt8](repeating: 7, count: 32)),
            let measures = try? [
                "mona/2011-07-01 00:15:00/0/0.098", "database_licore/2011-07-01T00:15/1/5e-05", "a/2011-07-01/1/-0.30",
            ].map({ try Measure(text: Array($0.utf8)) })
        else { return [] }
        let seeds = measures.compactMap { try? $0.message { try key.signature(for: $0) } }
        let update = try? ParameterUpdate(value: "0.2").message { try key.signature(for: $0) }
        return [
            FuzzTarget("LiCore", seeds: seeds + [update].compactMap { $0 }) { bytes in
                guard let text = try? SignedText(bytes) else { return }
                precondition(bytes.count <= SignedText.maximumSize)
                precondition(bytes.starts(with: text.text + [0x7C, 0x7C]), "the signed text is not the message's")
                if let measure = try? Measure(text: text.text) {
                    precondition(measure.date.offset == nil)
                    guard let again = try? Measure(text: Array(measure.text.utf8)) else {
                        preconditionFailure("a reading cannot be read again: \(measure.text)")
                    }
                    precondition(again == measure, "a reading comes back changed: \(measure.text)")
                }
                if let update = try? ParameterUpdate(text: text.text) {
                    precondition(Array(update.value.utf8) == text.text)
                }
            },
            FuzzTarget("Fleet", seeds: [Array(#"{"version":1,"members":[]}"#.utf8)]) { bytes in
                guard let fleet = try? Fleet(json: bytes) else { return }
                precondition(fleet.isEmpty, "a member out of nothing")
            },
        ]
    }()
}
