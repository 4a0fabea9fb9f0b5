import Enrolment
import Foundation
import FuzzTargets
import PKI
import TestSupport
import Testing

/// The certs-only messages of EST: what is read, and what is not.
@Suite struct CertificateBundleTests {
    private let pki: TestPKI
    private let bytes: [UInt8]

    init() throws {
        self.pki = try TestPKI(auditors: [], operators: [])
        self.bytes = FuzzTarget.certsOnly([self.pki.root.certificate.der, self.pki.intermediate.certificate.der])
    }

    @Test("Certificates come out in the order of the message") func certificatesComeOut() throws {
        let bundle = try CertificateBundle(der: self.bytes)
        #expect(bundle.certificates == [self.pki.root.certificate, self.pki.intermediate.certificate])
    }

    @Test("What OpenSSL makes of a PEM file is read") func opensslMakesPEM() async throws {
        try await TemporaryDirectory.with { folder in
            let pem = try folder.write(
                self.pki.root.certificate.pemText + self.pki.intermediate.certificate.pemText, to: "all.pem")
            let openssl = try ChildProcess(
                "openssl", ["crl2pkcs7", "-nocrl", "-certfile", pem, "-outform", "DER"])
            #expect(try await openssl.wait() == .exited(0), "\(openssl.errorOutput)")
            let bundle = try CertificateBundle(der: openssl.outputBytes)
            #expect(Set(bundle.certificates) == [self.pki.root.certificate, self.pki.intermediate.certificate])
        }
    }

    @Test("OpenSSL reads the messages of these tests") func opensslReadsMessages() async throws {
        let openssl = try ChildProcess(
            "openssl", ["pkcs7", "-inform", "DER", "-print_certs", "-noout"], input: self.bytes)
        #expect(try await openssl.wait() == .exited(0), "\(openssl.errorOutput)")
        #expect(openssl.output.contains("energy.example Issuing CA"))
    }

    @Test("Base64 may have line breaks, and nothing else") func base64MayHave() throws {
        let text = Self.base64(self.bytes)
        let lines = text.enumerated().flatMap { (index, byte) -> [UInt8] in
            index > 0 && index % 76 == 0 ? [13, 10, byte] : [byte]
        }
        #expect(try CertificateBundle(base64: lines).certificates.count == 2)
        for bad: [UInt8] in [[], Array("====".utf8), text + [UInt8(ascii: "!")], Array(text.dropLast(3))] {
            #expect(throws: EnrolmentError(.format, "")) { try CertificateBundle(base64: bad) }
        }
    }

    /// What is wrong, and the message that has it.
    private func malformed() -> [(String, [UInt8])] {
        let der = FuzzTarget.der
        let certificate = self.pki.root.certificate.der
        let signed: [UInt8] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02]
        let data: [UInt8] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x01]
        func message(
            type: [UInt8] = signed, version: [UInt8] = [0x02, 0x01, 0x01], algorithms: [UInt8] = [0x31, 0x00],
            contents: [UInt8] = der(0x30, data), certificates: [UInt8] = der(0xA0, certificate),
            signers: [UInt8] = [0x31, 0x00], more: [UInt8] = []
        ) -> [UInt8] {
            let body = [version, algorithms, contents, certificates, signers, more].flatMap(\.self)
            return der(0x30, type + der(0xA0, der(0x30, body)))
        }
        return [
            ("nothing", []),
            ("no DER", [0x30, 0x80, 0x00, 0x00]),
            ("bytes behind", message() + [0x00]),
            ("another type", message(type: data)),
            ("a version of nobody", message(version: [0x02, 0x01, 0x09])),
            ("digest algorithms", message(algorithms: der(0x31, der(0x30, data)))),
            ("other contents", message(contents: der(0x30, signed))),
            ("contents", message(contents: der(0x30, data + der(0xA0, [0x04, 0x01, 0x61])))),
            ("no certificates", message(certificates: [])),
            ("an empty set of them", message(certificates: der(0xA0, []))),
            ("a certificate that is none", message(certificates: der(0xA0, [0x30, 0x00]))),
            ("a signer", message(signers: der(0x31, der(0x30, [0x02, 0x01, 0x01])))),
            ("no set of signers", message(signers: [])),
            ("something behind the signers", message(more: [0x05, 0x00])),
            (
                "too many certificates",
                FuzzTarget.certsOnly([[UInt8]](repeating: certificate, count: CertificateBundle.maximumCount + 1))
            ),
            ("too many bytes", [UInt8](repeating: 0x30, count: CertificateBundle.maximumSize + 1)),
            ("depth", (0..<60).reduce([0x05, 0x00]) { bytes, _ in der(0x30, bytes) }),
        ]
    }

    @Test("What is not such a message is refused, in one line") func notSuchMessage() throws {
        for (name, bytes) in self.malformed() {
            #expect(throws: EnrolmentError(.format, ""), "\(name)") { try CertificateBundle(der: bytes) }
        }
        for length in 0..<self.bytes.count {
            #expect(throws: EnrolmentError(.format, "")) { try CertificateBundle(der: Array(self.bytes[..<length])) }
        }
    }

    @Test(
        "Mutations crash nothing", arguments: FuzzTarget.enrolment.map(\.name))
    func mutationsCrashNothing(_ name: String) throws {
        let target = try #require(FuzzTarget.enrolment.first { $0.name == name })
        #expect(!target.seeds.isEmpty)
        try target.fuzz(count: 3_000, seed: 7_030)
    }

    private static func base64(_ bytes: [UInt8]) -> [UInt8] { Array(Data(bytes).base64EncodedString().utf8) }
}
