import Identity
import Testing

@Suite("Names of parties")
struct IdentityTests {
    @Test(
        "An identifier is a letter or digit, then letters, digits, '.', '_', '-'",
        arguments: ["a", "mona", "Auditor_7.b-c", "0", String(repeating: "x", count: 64)])
    func identifierAccepted(_ text: String) throws {
        #expect(try Identifier(text).rawValue == text)
    }

    @Test(
        "Anything else is refused, wildcards, blanks and the reserved word too",
        arguments: [
            "", "-a", "_a", ".a", "a b", "a/b", "a+", "#", "a\u{0}", "é", "all", "ALL",
            String(repeating: "x", count: 65),
        ])
    func identifierRefused(_ text: String) {
        #expect(throws: IdentityError(.identifier, "")) { try Identifier(text) }
    }

    @Test("A meter's name has at most 32 bytes and may be 'all'")
    func meter() throws {
        #expect(try MeterName("all").rawValue == "all")
        #expect(throws: IdentityError(.meter, "")) { try MeterName(String(repeating: "m", count: 33)) }
    }

    @Test(
        "A trust domain is a lower-case DNS name of two labels or more",
        arguments: ["energy", "Energy.example", "a..b", ".a.b", "a.b.", "-a.b", "a_b.c", ""])
    func trustDomainRefused(_ text: String) {
        #expect(throws: IdentityError(.trustDomain, "")) { try TrustDomain(text) }
    }

    @Test("A SPIFFE ID is read and written byte for byte", arguments: Role.allCases)
    func spiffeRoundTrip(_ role: Role) throws {
        let text = "spiffe://energy.example/\(role)/Mona"
        let id = try SPIFFEID(text)
        #expect(id.rawValue == text)
        #expect(id == SPIFFEID(trustDomain: try TrustDomain("energy.example"), role: role, id: try Identifier("Mona")))
        #expect(id != (try SPIFFEID("spiffe://energy.example/\(role)/mona")))
    }

    @Test(
        "A SPIFFE ID with another scheme, another role, too few or too many segments is refused",
        arguments: [
            "http://energy.example/auditor/mona", "SPIFFE://energy.example/auditor/mona",
            "spiffe://energy.example/auditor",
            "spiffe://energy.example/auditor/mona/x", "spiffe://energy.example/admin/mona",
            "spiffe://energy.example/auditor/mona?x",
            "spiffe://energy.example/auditor/", "spiffe:///auditor/mona", "spiffe://energy/auditor/mona",
        ])
    func spiffeRefused(_ text: String) {
        #expect(throws: IdentityError.self) { try SPIFFEID(text) }
    }

    @Test("An error's text is one line however hostile the input")
    func errorIsOneLine() {
        do {
            _ = try Identifier("a\nb\u{1b}[31m")
            Issue.record("accepted")
        } catch {
            #expect(!error.reason.contains("\n") && !error.reason.contains("\u{1b}"))
        }
    }
}
