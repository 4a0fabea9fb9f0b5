/// Where a message that reaches the control center really comes from. Nobody in the system sees it.
enum Truth: Hashable {
    /// As its signer sent it, on its topic; perhaps not for the first time.
    case genuine
    /// Made or changed by the broker or by somebody with a certificate of his own.
    case attack(Attack)
}

/// What the adversary does to a message, or makes.
enum Attack: Int, CaseIterable, Hashable {
    case oversized, garbage, truncated, trailingByte, longerLength, highS, unprotectedLabel
    case flippedPayload, flippedSignature, misdirected, retained
    case otherIssuer, otherRole, unknownCertificate
}
