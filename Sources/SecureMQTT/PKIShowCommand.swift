import ArgumentParser
import Foundation
import Identity
import PKI
import SwiftASN1
import X509

struct PKIShowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show certificates or revocation lists, and whether an authority stands behind them.",
        discussion: """
            EXAMPLES
              secure-mqtt pki show /srv/energy/broker/broker.pem --config /srv/energy/secure-mqtt.yaml
              secure-mqtt pki show /srv/energy/pki/crl.pem
            """)

    @Argument(help: ArgumentHelp("A file of certificates or of revocation lists, PEM or DER.", valueName: "file"))
    var file: String

    @Flag(help: "One JSON object a line.")
    var json = false

    @OptionGroup
    var authority: AuthorityOptions

    func run() async throws {
        let authority = try? await self.authority.openAuthority()
        let rows = try self.read(authority)
        let output = Terminal.standardOutput
        for (index, row) in rows.enumerated() {
            if self.json {
                try output.json(row)
                continue
            }
            if index > 0 { output.line() }
            for (name, value) in row.fields {
                let name = name.replacing("_", with: " ") + ":"
                let title = name + String(repeating: " ", count: max(1, 14 - name.count))
                output.line("\(output.styled(title, .dim))\(value)")
            }
            for entry in row.entries ?? [] {
                output.line("  \(entry.revoked)  \(entry.serial)  \(entry.reason ?? "")")
            }
        }
    }

    private struct Row: Encodable {
        var fields: [(name: String, value: String)] = []
        /// Of a revocation list.
        var entries: [Entry]?

        struct Entry: Encodable {
            let serial: String
            let revoked: String
            let reason: String?
        }

        private struct Key: CodingKey {
            let stringValue: String
            var intValue: Int? { nil }
            init(stringValue: String) { self.stringValue = stringValue }
            init?(intValue: Int) { nil }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Key.self)
            for field in self.fields { try container.encode(field.value, forKey: Key(stringValue: field.name)) }
            try container.encodeIfPresent(self.entries, forKey: Key(stringValue: "entries"))
        }
    }

    private func read(_ authority: AuthorityDirectory?) throws -> [Row] {
        do {
            let certificates = try CertificateFile.read(self.file)
            return certificates.enumerated().map { index, certificate in
                Self.certificate(certificate, index == 0 ? certificates : [], authority)
            }
        } catch let error {
            guard error.code == .format, let lists = try? CertificateFile.readRevocationLists(self.file) else {
                throw error
            }
            return lists.map { Self.list($0, authority) }
        }
    }

    private static func certificate(
        _ certificate: Certificate, _ chain: [Certificate], _ authority: AuthorityDirectory?
    ) -> Row {
        var row = Row()
        row.fields.append(("subject", certificate.subject.description))
        let names = (try? certificate.extensions.subjectAlternativeNames).map { Array($0) } ?? []
        for name in names {
            switch name {
            case .uniformResourceIdentifier(let uri): row.fields.append(("spiffe_id", uri))
            default: break
            }
        }
        let hosts = certificate.hosts.map(\.description)
        if !hosts.isEmpty { row.fields.append(("hosts", hosts.joined(separator: ", "))) }
        row.fields.append(("issuer", certificate.issuer.description))
        row.fields.append(("serial", certificate.serialBytes.hexadecimal))
        row.fields.append(("valid_from", certificate.notBefore.iso8601))
        row.fields.append(("valid_until", certificate.notAfter.iso8601))
        row.fields.append(("sha256", certificate.sha256.hexadecimal))
        row.fields.append(("key_identifier", certificate.keyIdentifier.hexadecimal))
        let words = Self.inWords(certificate)
        if let words { row.fields.append(("in_words", words)) }
        if let authority, authority.issuers.contains(certificate) {
            row.fields.append(("status", Self.status(ofIntermediate: certificate, authority)))
        } else if !chain.isEmpty, let authority {
            row.fields.append(("status", Self.status(chain, authority)))
        }
        return row
    }

    /// One sentence for a person: what the certificate is for, and for how long.
    private static func inWords(_ certificate: Certificate) -> String? {
        let now = UnixTime.now
        let (first, last) = (certificate.notBefore, certificate.notAfter)
        let days = abs(last - now) / 86_400
        let validity =
            now < first
            ? "valid from \(first.iso8601)"
            : now > last ? "expired \(days) days ago" : "valid for another \(days) days"
        if case .isCertificateAuthority = try? certificate.extensions.basicConstraints {
            let isRoot = certificate.issuer == certificate.subject
            return "\(isRoot ? "A root" : "An issuing authority"): may certify others; \(validity)."
        }
        let names = (try? certificate.extensions.subjectAlternativeNames).map { Array($0) } ?? []
        for case .uniformResourceIdentifier(let uri) in names {
            guard let name = try? SPIFFEID(uri) else { continue }
            let what =
                switch name.role {
                case .auditor: "sends and signs readings as"
                case .controlCenter: "receives readings and signs receipts as"
                case .broker: "is the broker"
                case .operator: "acts through the API as"
                case .authority: "is the authority's server"
                }
            return "Whoever holds its key \(what) \(name.id) of \(name.trustDomain); \(validity)."
        }
        return nil
    }

    /// What a verifier that trusts the authority says of it now.
    private static func status(_ chain: [Certificate], _ authority: AuthorityDirectory) -> String {
        do throws(PKIError) {
            let lists = try CertificateFile.readRevocationLists(
                AuthorityDirectory.revocationListsPath(in: authority.path))
            _ = try IdentityVerifier(
                trustDomain: try authority.trustDomain, roots: authority.roots, intermediates: authority.issuers,
                revocationLists: lists
            ).verify(chain: Array(chain.prefix(2)), at: .now)
            return "valid"
        } catch {
            return "\(error.code): \(error.reason)"
        }
    }

    private static func status(ofIntermediate certificate: Certificate, _ authority: AuthorityDirectory) -> String {
        do throws(PKIError) {
            if let revocation = try authority.revocation(of: certificate) {
                return "revoked: \(revocation.reason), at \(revocation.time.iso8601)"
            }
        } catch {
            return "\(error.code): \(error.reason)"
        }
        return certificate == authority.issuing ? "in use" : "former: what it issued is good until it ends"
    }

    private static func list(_ list: RevocationList, _ authority: AuthorityDirectory?) -> Row {
        var row = Row()
        row.fields.append(("issuer", list.issuer.description))
        row.fields.append(("number", "\(list.number)"))
        row.fields.append(("this_update", list.thisUpdate.iso8601))
        row.fields.append(("next_update", list.nextUpdate.iso8601))
        row.fields.append(("revoked", "\(list.count)"))
        row.entries = list.entries.map {
            Row.Entry(
                serial: $0.serialNumber.hexadecimal, revoked: $0.revokedAt.iso8601,
                reason: $0.reason.map { "\($0)" })
        }
        if let authority {
            let isSigned = (authority.roots + authority.issuers).contains { list.isSigned(by: $0) }
            row.fields.append(("status", isSigned ? "signed by the authority" : "not signed by the authority"))
        }
        return row
    }
}
