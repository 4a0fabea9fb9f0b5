import COSE
public import Identity

/// What a control center tells one auditor to change. Bound by its nonce to the auditor's newest hello, so that
/// nothing older than a connection can be replayed. Not part of a stream; always carries the certificate chain.
public struct Update: Hashable, Sendable {
    /// The longest ``unit``, in bytes.
    public static let maximumUnitLength = 16

    /// What is to change. The same as in the topic.
    public var parameter: Topic.Parameter
    public var value: ParameterValue
    /// Of the value; nil for what has none.
    public var unit: String?
    /// That of the target's newest hello.
    public var nonce: Nonce
    /// Common to the updates of a group, and to every form of one that had to be signed again; 16 random bytes.
    public var batch: Nonce?

    public init(
        parameter: Topic.Parameter, value: ParameterValue, unit: String? = nil, nonce: Nonce, batch: Nonce? = nil
    ) {
        self.parameter = parameter
        self.value = value
        self.unit = unit
        self.nonce = nonce
        self.batch = batch
    }

    /// {1: parameter, 2: value, ? 3: unit, 4: nonce, ? 5: batch}
    func encoded() -> [UInt8] {
        var writer = CBORWriter(capacity: 96)
        writer.map(3 + (self.unit == nil ? 0 : 1) + (self.batch == nil ? 0 : 1))
        writer.unsigned(1)
        writer.text(self.parameter.rawValue)
        writer.unsigned(2)
        self.value.write(to: &writer)
        if let unit = self.unit {
            writer.unsigned(3)
            writer.text(unit)
        }
        writer.unsigned(4)
        writer.byteString(self.nonce.bytes)
        if let batch = self.batch {
            writer.unsigned(5)
            writer.byteString(batch.bytes)
        }
        return writer.bytes
    }

    init(reading reader: inout CBORReader) throws(COSEError) {
        let start = reader.position
        var parameter: Topic.Parameter?
        var value: ParameterValue?
        var nonce: Nonce?
        var labels = PayloadLabels(count: try reader.mapCount())
        while let label = try labels.next(&reader) {
            switch label {
            case 1:
                let position = reader.position
                parameter = Topic.Parameter(try reader.string(upTo: 32, "the parameter"))
                guard parameter != nil else {
                    throw COSEError(.unexpected, "not the name of a parameter", at: position)
                }
            case 2: value = try ParameterValue(reading: &reader)
            case 3: self.unit = try reader.string(upTo: Self.maximumUnitLength, "the unit")
            case 4: nonce = try reader.nonce()
            case 5: self.batch = try reader.nonce()
            default: throw labels.unknown(reader)
            }
        }
        guard let parameter, let value, let nonce else {
            throw COSEError(.unexpected, "an update needs labels 1, 2 and 4", at: start)
        }
        self.parameter = parameter
        self.value = value
        self.nonce = nonce
        try reader.finish()
    }

    /// Signs an update for one auditor.
    ///
    /// - Parameters:
    ///   - target: The auditor: becomes `aud`, and `sub` with `/updates` behind it.
    ///   - sequence: 1 ... 2^53-1, above all that the signer has used for this target.
    ///   - expires: From then on it is not to be applied; whole seconds are kept.
    ///   - issuedAt: Now, by the signer's clock; whole seconds are kept.
    ///   - chain: The signer's certificate and its intermediate (up to four certificates) in DER.
    /// - Throws: ``Refusal`` `header` if a number, a time or the chain is out of range, `format` if the value or the
    ///   unit is too long; else what the signer throws.
    public func signed(
        for target: SPIFFEID, sequence: Int64, expires: Timestamp, issuedAt: Timestamp, chain: [[UInt8]],
        by signer: some Signer
    ) throws -> SignedMessage {
        if let flaw = self.value.flaw { throw Refusal(.format, flaw) }
        guard self.unit.map({ $0.utf8.count <= Self.maximumUnitLength }) ?? true else {
            throw Refusal(.format, "a unit of more than \(Self.maximumUnitLength) bytes")
        }
        let header = ProtectedHeader.encode(
            kind: .update, issuer: signer.issuer, subject: "\(target)\(Self.subjectSuffix)", audience: target,
            expires: try checked(expires), issuedAt: try checked(issuedAt), certificateHash: signer.certificateHash,
            chain: try checked(chain, of: signer), sequence: try checked(sequence))
        return try sign(header, self.encoded(), by: signer)
    }

    /// What follows the target's SPIFFE ID in `sub`.
    static let subjectSuffix = "/updates"
}
