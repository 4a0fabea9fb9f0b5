import COSE
import Identity

/// The types of our payloads, read with their ranges checked.
extension CBORReader {
    /// - Throws: ``COSEError`` `unexpected` with this reason, here.
    func fail(_ reason: String) -> COSEError {
        COSEError(.unexpected, reason, at: self.position)
    }

    mutating func array(of count: Int, _ what: StaticString) throws(COSEError) {
        let start = self.position
        guard try self.arrayCount() == count else {
            throw COSEError(.unexpected, "\(what) has another number of items", at: start)
        }
    }

    /// The number of entries of a list that a message may not make longer than `limit`.
    mutating func listCount(upTo limit: Int, _ what: StaticString) throws(COSEError) -> Int {
        let start = self.position
        let count = try self.arrayCount()
        guard (1...limit).contains(count) else {
            throw COSEError(.unexpected, "\(what) must have 1 to \(limit) entries", at: start)
        }
        return count
    }

    /// An unsigned integer within a range.
    mutating func number(in range: ClosedRange<Int64>, _ what: StaticString) throws(COSEError) -> Int64 {
        let start = self.position
        let value = try self.integer()
        guard range.contains(value) else { throw COSEError(.unexpected, "\(what) out of range", at: start) }
        return value
    }

    /// 1 ... 2^53-1.
    mutating func sequence() throws(COSEError) -> Int64 {
        try self.number(in: 1...StreamPosition.maximumSequence, "a sequence number")
    }

    /// Whole seconds since 1970, below 2^33.
    mutating func wireTime() throws(COSEError) -> Timestamp {
        Timestamp(seconds: try self.number(in: 0...(Timestamp.wireSecondsLimit - 1), "a time"))
    }

    mutating func messageID() throws(COSEError) -> MessageID {
        let start = self.position
        guard let id = MessageID(self.bytes[try self.byteString()]) else {
            throw COSEError(.unexpected, "a message id must have 32 bytes", at: start)
        }
        return id
    }

    mutating func nonce() throws(COSEError) -> Nonce {
        let start = self.position
        guard let nonce = Nonce(self.bytes[try self.byteString()]) else {
            throw COSEError(.unexpected, "a nonce must have 16 bytes", at: start)
        }
        return nonce
    }

    mutating func clockQuality() throws(COSEError) -> ClockQuality {
        let range = try self.text()
        guard range.count == 1, let clock = ClockQuality(rawValue: self.bytes[range.lowerBound]) else {
            throw COSEError(.unexpected, "the clock must be S, I, R or U", at: range.lowerBound)
        }
        return clock
    }

    mutating func meterName() throws(COSEError) -> MeterName {
        let range = try self.text()
        guard Name.isWellFormed(self.bytes, in: range, maximumLength: MeterName.maximumLength) else {
            throw COSEError(.unexpected, "not the name of a meter", at: range.lowerBound)
        }
        return MeterName(checked: String(decoding: self.bytes[range], as: UTF8.self))
    }

    /// Text of at most `limit` bytes.
    mutating func string(upTo limit: Int, _ what: StaticString) throws(COSEError) -> String {
        let range = try self.text()
        guard range.count <= limit else {
            throw COSEError(.unexpected, "\(what) is longer than \(limit) bytes", at: range.lowerBound)
        }
        return String(decoding: self.bytes[range], as: UTF8.self)
    }

    /// An integer, or tag 4 on [exponent -18 ... -1, mantissa] (RFC 8949 section 3.4.4).
    mutating func decimal() throws(COSEError) -> ExactDecimal {
        let start = self.position
        let mantissa: Int64
        var exponent: Int64 = 0
        if self.nextMajorType == 6 {
            guard try self.tag() == 4 else { throw COSEError(.unexpected, "a tag other than 4", at: start) }
            try self.array(of: 2, "a decimal")
            exponent = try self.integer()
            guard exponent < 0 else {
                throw COSEError(.unexpected, "a decimal with exponent 0 or above is an integer", at: start)
            }
            mantissa = try self.integer()
        } else {
            mantissa = try self.integer()
        }
        guard let value = ExactDecimal(mantissa: mantissa, exponent: Int(clamping: exponent)) else {
            throw COSEError(.unexpected, "a number out of range", at: start)
        }
        return value
    }

    /// Seconds as an integer or a decimal of at most 9 digits behind the point, in nanoseconds.
    ///
    /// - Parameter limit: The result is above -limit and below limit; at most 2^33 s.
    mutating func nanoseconds(below limit: Int64) throws(COSEError) -> Int64 {
        let start = self.position
        let seconds = try self.decimal()
        guard seconds.exponent >= -9 else {
            throw COSEError(.unexpected, "a time finer than a nanosecond", at: start)
        }
        var factor: Int64 = 1_000_000_000
        for _ in 0..<(-Int(seconds.exponent)) { factor /= 10 }
        let (nanoseconds, overflow) = seconds.mantissa.multipliedReportingOverflow(by: factor)
        guard !overflow, nanoseconds < limit, nanoseconds > -limit else {
            throw COSEError(.unexpected, "a time out of range", at: start)
        }
        return nanoseconds
    }
}

extension CBORWriter {
    mutating func decimal(_ value: ExactDecimal) {
        if value.exponent < 0 {
            self.tag(4)
            self.array(2)
            self.integer(Int64(value.exponent))
        }
        self.integer(value.mantissa)
    }

    /// Nanoseconds as seconds, with no more digits than needed.
    mutating func seconds(nanoseconds: Int64) {
        var mantissa = nanoseconds
        var exponent: Int64 = -9
        while exponent < 0, mantissa % 10 == 0 {
            mantissa /= 10
            exponent += 1
        }
        if exponent < 0 {
            self.tag(4)
            self.array(2)
            self.integer(exponent)
        }
        self.integer(mantissa)
    }
}
