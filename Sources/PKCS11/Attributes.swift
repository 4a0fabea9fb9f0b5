import CP11Kit

/// A number as PKCS #11 passes it: in the machine's own order.
func bytes(of number: CK_ULONG) -> [UInt8] { withUnsafeBytes(of: number) { Array($0) } }

/// Attributes of an object, to find it or to make it.
struct Template {
    private(set) var attributes: [(type: CK_ATTRIBUTE_TYPE, value: [UInt8])] = []

    mutating func add(_ type: CK_ATTRIBUTE_TYPE, _ value: [UInt8]) { self.attributes.append((type, value)) }

    mutating func add(_ type: CK_ATTRIBUTE_TYPE, _ value: CK_ULONG) {
        self.attributes.append((type, bytes(of: value)))
    }

    mutating func add(_ type: CK_ATTRIBUTE_TYPE, _ value: Bool) { self.attributes.append((type, [value ? 1 : 0])) }

    /// Lends them in PKCS #11's form, which ends with the call.
    func withPointer<Result>(_ body: (UnsafeMutablePointer<CK_ATTRIBUTE>, CK_ULONG) -> Result) -> Result {
        // Each value at a multiple of 8, because modules read numbers in place.
        let width = MemoryLayout<CK_ULONG>.alignment
        let sizes = self.attributes.map { ($0.value.count + width - 1) / width * width }
        let values = UnsafeMutableRawBufferPointer.allocate(byteCount: sizes.reduce(width, +), alignment: width)
        defer { values.deallocate() }
        var list: [CK_ATTRIBUTE] = []
        var offset = 0
        for (attribute, size) in zip(self.attributes, sizes) {
            let slice = UnsafeMutableRawBufferPointer(rebasing: values[offset..<offset + attribute.value.count])
            slice.copyBytes(from: attribute.value)
            list.append(
                CK_ATTRIBUTE(
                    type: attribute.type, pValue: slice.baseAddress, ulValueLen: CK_ULONG(attribute.value.count)))
            offset += size
        }
        return withUnsafeTemporaryAllocation(of: CK_ATTRIBUTE.self, capacity: list.count + 1) { buffer in
            // Not nil: the capacity is at least 1.
            guard let base = buffer.baseAddress else { preconditionFailure("an empty allocation") }
            base.initialize(from: list, count: list.count)
            return body(base, CK_ULONG(list.count))
        }
    }
}
