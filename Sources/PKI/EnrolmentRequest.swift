// RFC 2986 (PKCS#10), as RFC 7030 section 4.2 carries it.

public import Crypto
import Foundation
import Identity
import SwiftASN1
import X509

/// A certificate signing request, judged: who holds the key, and does what is asked for fit?
///
/// The profile decides what a certificate says. A request may ask for less, or say nothing but its key. Another name, an
/// authority's or another role's usage is refused, because its sender counts on it; whatever else it asks for is left out.
public struct EnrolmentRequest: Sendable {
    /// The longest request, in bytes of DER. A plain one takes about 250.
    public static let maximumSize = 8_192

    public let publicKey: P256.Signing.PublicKey

    private let request: CertificateSigningRequest

    /// Parses a request and verifies that its sender holds the key.
    ///
    /// - Throws: ``PKIError`` with code `too-large`, `format`, `weak-key` for anything but P-256, `algorithm` for
    ///   another signature than ecdsa-with-SHA256, `possession` if the signature does not verify.
    public init(der: [UInt8]) throws(PKIError) {
        guard der.count <= Self.maximumSize else {
            throw PKIError(.tooLarge, "a request of \(der.count) bytes; at most \(Self.maximumSize) are accepted")
        }
        guard let request = try? CertificateSigningRequest(derEncoded: der) else {
            throw Self.unsupported(der) ?? PKIError(.format, "not a certificate signing request (PKCS#10) in DER")
        }
        guard let publicKey = P256.Signing.PublicKey(request.publicKey) else {
            throw PKIError(.weakKey, "the request's key is not a P-256 key")
        }
        guard request.signatureAlgorithm == .ecdsaWithSHA256 else {
            throw PKIError(.algorithm, "the request is not signed with ecdsa-with-SHA256")
        }
        guard request.publicKey.isValidSignature(request.signature, for: request) else {
            throw PKIError(.possession, "the request's signature does not prove possession of the key")
        }
        self.publicKey = publicKey
        self.request = request
    }

    /// Why the X.509 library does not take what has the shape of a request: it knows no such key or signature.
    private static func unsupported(_ der: [UInt8]) -> PKIError? {
        let (key, signature): (ArraySlice<UInt8>, ArraySlice<UInt8>)
        do throws(DERCursor.Malformed) {
            var outer = DERCursor(der, in: der.indices)
            var request = DERCursor(der, in: try outer.next(0x30).content)
            var information = DERCursor(der, in: try request.next(0x30).content)
            signature = der[try request.next(0x30).content]
            _ = try request.next(0x03)
            _ = try information.next(0x02)
            _ = try information.next(0x30)
            var keyInformation = DERCursor(der, in: try information.next(0x30).content)
            key = der[try keyInformation.next(0x30).content]
            guard outer.isAtEnd, request.isAtEnd else { return nil }
        } catch {
            return nil
        }
        // SEQUENCE { ecPublicKey, prime256v1 }; SEQUENCE { ecdsa-with-SHA256 }.
        guard
            key.elementsEqual([
                0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03,
                0x01, 0x07,
            ])
        else { return PKIError(.weakKey, "the request's key is not a P-256 key") }
        guard signature.elementsEqual([0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02]) else {
            return PKIError(.algorithm, "the request is not signed with ecdsa-with-SHA256")
        }
        return nil
    }

    /// As ``init(der:)``, from a file or a body: DER, PEM, or the base64 that EST sends.
    public init(text bytes: [UInt8]) throws(PKIError) {
        guard bytes.count <= 2 * Self.maximumSize else {
            throw PKIError(.tooLarge, "a request of \(bytes.count) bytes; at most \(2 * Self.maximumSize) are accepted")
        }
        if bytes.first == 0x30 {
            try self.init(der: bytes)
            return
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw PKIError(.format, "a request is DER, PEM or base64")
        }
        if let document = try? PEMDocument(pemString: text) {
            guard ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(document.discriminator) else {
                throw PKIError(.format, "'\(document.discriminator)' where a certificate signing request is expected")
            }
            try self.init(der: document.derBytes)
            return
        }
        let digits = text.filter { !$0.isWhitespace }
        guard !digits.isEmpty, let der = Data(base64Encoded: digits) else {
            throw PKIError(.format, "a request is DER, PEM or base64")
        }
        try self.init(der: Array(der))
    }

    /// SHA-256 of the public key (X9.63): by which a repeated request is recognised.
    public var keyHash: [UInt8] { Array(SHA256.hash(data: self.publicKey.x963Representation)) }

    /// The common name that is asked for; nil if there is none.
    public var commonName: String? {
        self.request.subject.lazy.flatMap { $0 }.first { $0.type == .RDNAttributeType.commonName }
            .flatMap { String($0.value) }
    }

    /// Whether everything that is asked for is what the profile gives.
    ///
    /// - Throws: ``PKIError`` with code `name` for another ID, SPIFFE ID or host name, `key-usage` for an authority's
    ///   or another usage, `format` for extensions that cannot be read.
    public func require(_ profile: CertificateProfile) throws(PKIError) {
        let id = profile.spiffeID.id
        let names = self.request.subject.flatMap { $0 }.filter { $0.type == .RDNAttributeType.commonName }
        // By their bytes: for Swift a Kelvin sign is a K.
        guard names.count <= 1, names.allSatisfy({ String($0.value)?.utf8.elementsEqual(id.rawValue.utf8) == true })
        else {
            throw PKIError(.name, "the request's common name is not \(id)")
        }
        let extensions: Certificate.Extensions
        do {
            extensions = try self.request.attributes.extensionRequest?.extensions ?? Certificate.Extensions()
        } catch {
            throw PKIError(.format, "the request's extensions cannot be read")
        }
        try Self.requireNames(extensions, profile)
        try Self.requireUsage(extensions, profile)
    }

    private static func requireNames(
        _ extensions: Certificate.Extensions, _ profile: CertificateProfile
    ) throws(PKIError) {
        let names: SubjectAlternativeNames?
        do {
            names = try extensions.subjectAlternativeNames
        } catch {
            throw PKIError(.format, "the request's alternative names cannot be read")
        }
        for name in names ?? SubjectAlternativeNames() {
            let isOurs =
                switch name {
                case .uniformResourceIdentifier(let uri): uri.utf8.elementsEqual(profile.spiffeID.rawValue.utf8)
                case .dnsName(let name): profile.hosts.contains(.dns(name.lowercased()))
                case .ipAddress(let bytes): profile.hosts.contains(.address(Array(bytes.bytes)))
                default: false
                }
            guard isOurs else {
                throw PKIError(.name, "the request asks for a name that is not \(profile.spiffeID)'s: \(name)")
            }
        }
    }

    private static func requireUsage(
        _ extensions: Certificate.Extensions, _ profile: CertificateProfile
    ) throws(PKIError) {
        let constraints: BasicConstraints?
        let usage: KeyUsage?
        let extended: ExtendedKeyUsage?
        do {
            constraints = try extensions.basicConstraints
            usage = try extensions.keyUsage
            extended = try extensions.extendedKeyUsage
        } catch {
            throw PKIError(.format, "the request's extensions cannot be read")
        }
        if case .isCertificateAuthority = constraints {
            throw PKIError(.keyUsage, "the request asks for an authority's certificate")
        }
        if let usage, usage.keyCertSign || usage.cRLSign {
            throw PKIError(.keyUsage, "the request asks for an authority's key usage")
        }
        if let extended {
            for usage in extended where usage != profile.extendedKeyUsage {
                throw PKIError(.keyUsage, "the request asks for \(usage), which \(profile.spiffeID) does not get")
            }
        }
    }
}
