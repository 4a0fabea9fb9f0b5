import Crypto
import Foundation
import Identity
import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import PKCS11
import PKI
import PKITLS
import Synchronization
import TestSupport
import Testing
import X509

/// Keys in the tokens of a real module. One at a time: SoftHSM reads its tokens when it starts, and it starts once for
/// all who use it in a process.
@Suite(
    .serialized, .enabled(if: SoftHSM.isInstalled, "\(SoftHSM.absence)"),
    .enabled(if: SoftHSM.ownConfiguration != nil, "run make test, which says where SoftHSM finds its configuration"))
struct TokenTests {
    /// The tokens of this process, all made before the module starts.
    private static let shared = Task {
        let softHSM = try SoftHSM()
        let named = try #require(SoftHSM.ownConfiguration)
        try Data(softHSM.configuration.utf8).write(to: URL(fileURLWithPath: named))
        for number in 10..<30 { try await softHSM.makeToken("token-\(number)") }
        return softHSM
    }
    /// Two digits: pkcs11-tool takes the beginning of a name for the name.
    private static let next = Atomic(10)

    private let softHSM: SoftHSM
    private let keys = PKCS11Keys()
    private let token: String
    private let folder: TemporaryDirectory

    init() async throws {
        self.softHSM = try await Self.shared.value
        self.token = "token-\(Self.next.add(1, ordering: .relaxed).oldValue)"
        self.folder = try TemporaryDirectory()
    }

    private func uri(_ label: String, more: String = "") -> String {
        self.softHSM.uri(self.token, label, more: more)
    }

    private func expectOpenSSL(_ key: SigningKey, sourceLocation: SourceLocation = #_sourceLocation) async throws {
        let message = Array("a message".utf8)
        let signature = try key.sign(SHA256.hash(data: message))
        let publicKey = try self.folder.write(key.publicKey.pemRepresentation, to: "public.pem")
        let path = try self.folder.write(signature.derRepresentation, to: "signature")
        let verified = try await OpenSSL.run(
            ["dgst", "-sha256", "-verify", publicKey, "-signature", path], input: message)
        #expect(verified.output == "Verified OK\n", "\(verified.errorOutput)", sourceLocation: sourceLocation)
    }

    @Test("A key that is made in a token signs there, as openssl agrees, and is the same at the next look")
    func made() async throws {
        let key = try self.keys.openOrMake(self.uri("mona"))
        try await self.expectOpenSSL(key)
        let long = SHA512.hash(data: [1])
        let signature = try key.sign(prehashed: long)
        #expect(key.publicKey.isValidSignature(signature, for: long))
        #expect(key.pemRepresentation == nil)
        let publicKey = key.publicKey.rawRepresentation
        #expect(try self.keys.open(self.uri("mona")).publicKey.rawRepresentation == publicKey)
        #expect(try self.keys.openOrMake(self.uri("mona")).publicKey.rawRepresentation == publicKey)
        #expect(try self.keys.openOrMake(self.uri("lena")).publicKey.rawRepresentation != publicKey)
        // By ID alone, too.
        let byID = self.uri("id", more: ";id=%01%FF").replacing("object=id;", with: "")
        let made = try self.keys.openOrMake(byID)
        #expect(try self.keys.open(byID).publicKey.rawRepresentation == made.publicKey.rawRepresentation)
    }

    @Test(
        "A key that is made never leaves its token",
        .enabled(if: ChildProcess.find("pkcs11-tool") != nil, "pkcs11-tool (opensc) is not installed"))
    func neverLeaves() async throws {
        _ = try self.keys.openOrMake(self.uri("mona"))
        let listed = try await self.softHSM.tool(self.token, ["--list-objects", "--type", "privkey"])
        #expect(listed.contains("Access:     sensitive, always sensitive, never extractable, local"), "\(listed)")
        #expect(listed.contains("label:      mona"), "\(listed)")
    }

    @Test("A key that openssl made and SoftHSM imported is found, and is that key")
    func imported() async throws {
        let software = SigningKey()
        let path = try self.folder.write(software.pemRepresentation ?? "", to: "a.key")
        try await self.softHSM.importKey(path, into: self.token, label: "a", id: "A1")
        let key = try self.keys.open(self.uri("a"))
        #expect(key.publicKey.rawRepresentation == software.publicKey.rawRepresentation)
        try await self.expectOpenSSL(key)
        #expect(try self.keys.open(self.uri("a", more: ";id=%a1;type=private")).uri?.contains("%a1") == true)
        #expect(throws: PKIError(.missing, "")) { try self.keys.open(self.uri("a", more: ";id=%a2")) }
        // A second one of that name.
        let other = try self.folder.write(SigningKey().pemRepresentation ?? "", to: "b.key")
        try await self.softHSM.importKey(other, into: self.token, label: "a", id: "A2")
        let two = #expect(throws: PKIError(.hardware, "")) { try self.keys.open(self.uri("a")) }
        #expect(two?.reason == "pkcs11:token=\(self.token);object=a: two keys answer to that: add id=... to it")
        #expect(throws: PKIError(.hardware, "")) { try self.keys.openOrMake(self.uri("a")) }
        #expect(throws: Never.self) { try self.keys.open(self.uri("a", more: ";id=%A1")) }
    }

    @Test("Keys of other kinds are refused", arguments: ["EC:secp384r1", "rsa:2048"])
    func otherKinds(type: String) async throws {
        guard ChildProcess.find("pkcs11-tool") != nil else {
            print("skipped: pkcs11-tool (opensc) is not installed")
            return
        }
        try await self.softHSM.tool(self.token, ["--keypairgen", "--key-type", type, "--label", "other"])
        let error = #expect(throws: PKIError(.weakKey, "")) { try self.keys.openOrMake(self.uri("other")) }
        #expect(error?.reason == "pkcs11:token=\(self.token);object=other is not a P-256 key")
    }

    @Test(
        "A key that wants its PIN before each signature gets it",
        .enabled(if: ChildProcess.find("pkcs11-tool") != nil, "pkcs11-tool (opensc) is not installed"))
    func alwaysAuthenticate() async throws {
        try await self.softHSM.tool(
            self.token,
            ["--keypairgen", "--key-type", "EC:prime256v1", "--label", "nine", "--id", "09", "--always-auth"])
        let key = try self.keys.open(self.uri("nine"))
        for _ in 0..<3 { try await self.expectOpenSSL(key) }
        // With a wrong one it is asked once, and not again.
        try self.softHSM.folder.write("4321\n", to: "pin")
        let wrong = #expect(throws: PKIError(.signing, "")) { try key.sign(SHA256.hash(data: [1])) }
        #expect(wrong?.reason.hasSuffix("/pin is wrong") == true, "\(wrong?.reason ?? "")")
        let untried = #expect(throws: PKIError(.signing, "")) { try key.sign(SHA256.hash(data: [1])) }
        #expect(untried?.reason.contains("not tried again") == true, "\(untried?.reason ?? "")")
        try self.softHSM.folder.write("1234\n", to: "pin")
        try await self.expectOpenSSL(key)
    }

    @Test("A private key without its public key is of no use, and the message says what to do")
    func noPublicKey() async throws {
        guard ChildProcess.find("pkcs11-tool") != nil else {
            print("skipped: pkcs11-tool (opensc) is not installed")
            return
        }
        _ = try self.keys.openOrMake(self.uri("half", more: ";id=%07"))
        try await self.softHSM.tool(self.token, ["--delete-object", "--type", "pubkey", "--id", "07"])
        let error = #expect(throws: PKIError(.hardware, "")) { try self.keys.open(self.uri("half")) }
        #expect(error?.reason.hasSuffix("import that too, with the same ID") == true)
    }

    @Test("What is wrong with module, token, PIN or its file is said, and with which")
    func wrong() async throws {
        let module = SoftHSM.module ?? ""
        let pin = self.softHSM.folder.path("pin")
        let secret = try self.folder.write("9999\n", to: "wrong-pin")
        let open = try self.folder.write("1234\n", to: "open-pin", permissions: 0o640)
        let empty = try self.folder.write("\n", to: "empty-pin")
        let cases: [(uri: String, code: PKIError.Code, words: String)] = [
            (
                "token=\(self.token);object=a?module-path=/nowhere.so&pin-source=\(pin)", .missing,
                "/nowhere.so does not"
            ),
            ("token=\(self.token);object=a?module-path=/etc/passwd&pin-source=\(pin)", .hardware, "/etc/passwd is no"),
            ("token=none;object=a?module-path=\(module)&pin-source=\(pin)", .hardware, "there is no such token"),
            (
                "token=\(self.token);serial=7;object=a?module-path=\(module)&pin-source=\(pin)", .hardware,
                "no such token"
            ),
            ("token=\(self.token);object=a?module-path=\(module)", .passphrase, "add pin-source=file:PATH"),
            (
                "token=\(self.token);object=a?module-path=\(module)&pin-source=\(secret)", .passphrase,
                "\(secret) is wrong"
            ),
            (
                "token=\(self.token);object=a?module-path=\(module)&pin-source=\(open)", .permissions,
                "chmod 600 \(open)"
            ),
            ("token=\(self.token);object=a?module-path=\(module)&pin-source=\(empty)", .passphrase, empty),
            ("token=\(self.token);object=a?module-path=\(module)&pin-source=/nowhere", .missing, "/nowhere does not"),
            ("token=\(self.token);object=a?module-path=\(module)&pin-source=\(pin)", .missing, "no such private key"),
        ]
        for (uri, code, words) in cases {
            let error = #expect(throws: PKIError(code, ""), "\(uri)") { try self.keys.open("pkcs11:" + uri) }
            #expect(error?.reason.contains(words) == true, "\(error?.reason ?? "")")
            #expect(error?.reason.contains("\n") == false && error?.reason.contains("9999") == false)
        }
    }

    @Test("A token that is taken away fails the next signature, and works again when it is back")
    func plugged() async throws {
        let key = try self.keys.openOrMake(self.uri("mona"))
        let digest = SHA256.hash(data: [1])
        _ = try key.sign(digest)
        try self.softHSM.plug(false)
        for _ in 0..<2 {
            let error = #expect(throws: PKIError(.signing, "")) { try key.sign(digest) }
            #expect(error?.reason.contains("no such token") == true, "\(error?.reason ?? "")")
        }
        try self.softHSM.plug(true)
        let signature = try key.sign(digest)
        #expect(key.publicKey.isValidSignature(signature, for: digest))
    }

    @Test("A wrong PIN is tried once, because tokens lock themselves, and again when its file has changed")
    func refusedPIN() async throws {
        let key = try self.keys.openOrMake(self.uri("mona"))
        let digest = SHA256.hash(data: [1])
        try self.softHSM.plug(false)
        #expect(throws: PKIError(.signing, "")) { try key.sign(digest) }
        try self.softHSM.plug(true)
        try self.softHSM.folder.write("4321\n", to: "pin")
        let wrong = #expect(throws: PKIError(.signing, "")) { try key.sign(digest) }
        #expect(wrong?.reason.hasSuffix("/pin is wrong") == true, "\(wrong?.reason ?? "")")
        for _ in 0..<3 {
            let untried = #expect(throws: PKIError(.signing, "")) { try key.sign(digest) }
            #expect(untried?.reason.contains("not tried again before its file changes") == true)
        }
        try self.softHSM.folder.write("1234\n", to: "pin")
        #expect(throws: Never.self) { try key.sign(digest) }
    }

    @Test("Many threads sign with one key, each its own digest")
    func threads() async throws {
        let key = try self.keys.openOrMake(self.uri("mona"))
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<16 {
                group.addTask {
                    for turn in 0..<20 {
                        let digest = SHA256.hash(data: [UInt8(number), UInt8(turn)])
                        let signature = try key.sign(digest)
                        #expect(key.publicKey.isValidSignature(signature, for: digest))
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    @Test("An authority whose keys are in a token issues, revokes and answers OCSP; openssl agrees")
    func authority() async throws {
        let path = self.folder.path("pki")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        let now = TestPKI.currentTime()
        let domain = try TrustDomain("energy.example")
        let (root, issuing) = (try self.keys.openOrMake(self.uri("root")), try self.keys.openOrMake(self.uri("ca")))
        #expect(throws: PKIError(.exists, "")) {
            try AuthorityDirectory.create(path, trustDomain: domain, at: now, key: root, rootKey: root)
        }
        _ = try AuthorityDirectory.create(path, trustDomain: domain, at: now, key: issuing, rootKey: root)
        #expect(
            try String(contentsOfFile: AuthorityDirectory.issuingKeyPath(in: path), encoding: .utf8)
                == self.uri("ca") + "\n")
        // Without anybody who finds it there is no key.
        let profile = CertificateProfile.auditor(try Identifier("a"), in: domain)
        let key = SigningKey()
        #expect(throws: PKIError(.hardware, "")) {
            try AuthorityDirectory.open(path).issue(profile, to: key.publicKey, at: now)
        }
        let directory = try AuthorityDirectory.open(path, hardware: self.keys)
        let leaf = try directory.issue(profile, to: key.publicKey, at: now)
        let other = try directory.issue(
            .auditor(try Identifier("b"), in: domain), to: SigningKey().publicKey, at: now)
        _ = try directory.revoke(try Identifier("b"), reason: .keyCompromise, at: now)
        #expect(try directory.renewRevocationLists(at: now))
        let responderKey = SigningKey()
        let responder = try directory.issueResponder(
            for: directory.issuing, to: responderKey.publicKey, at: now, lifetime: 86_400)
        #expect(throws: Never.self) {
            try OCSPResponder(issuer: directory.issuing, certificate: responder, key: responderKey)
        }
        for (certificate, expected) in [(leaf, "OK"), (other, "certificate revoked")] {
            let file = try self.folder.write(certificate.pemText, to: "leaf.pem")
            let verified = try await OpenSSL.run([
                "verify", "-x509_strict", "-crl_check_all", "-CAfile", "\(path)/root.pem", "-untrusted",
                "\(path)/issuing.pem", "-CRLfile", "\(path)/crl.pem", file,
            ])
            #expect((verified.output + verified.errorOutput).contains(expected), "\(verified.errorOutput)")
        }
        // A further intermediate needs a further key.
        #expect(throws: PKIError(.exists, "")) {
            try directory.addIntermediate(key: issuing, passphrase: nil, at: now)
        }
        let next = try directory.addIntermediate(
            key: try self.keys.openOrMake(self.uri("ca-2")), passphrase: nil, at: now)
        #expect(throws: Never.self) { try next.reopened().unlock() }
        #expect(throws: Never.self) { try AuthorityDirectory.open(path, hardware: self.keys).unlock() }
    }

    @Test("Certificate and key of a device: the key is made in the token, stays there, and certificates change alone")
    func identityFiles() async throws {
        let pki = try TestPKI()
        let (pem, file) = (self.folder.path("auditor.pem"), self.folder.path("auditor.key"))
        // By the URI itself, then by a file that holds it.
        let files = IdentityFiles(certificate: pem, key: self.uri("mona"), hardware: self.keys)
        #expect(files.isInHardware)
        let key = try files.prepareKey()
        #expect(try files.prepareKey().publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        try KeyFile.create(file, key)
        for files in [files, IdentityFiles(certificate: pem, key: file, hardware: self.keys)] {
            #expect(files.isInHardware)
            #expect(try files.prepareKey().publicKey.rawRepresentation == key.publicKey.rawRepresentation)
            for _ in 0..<2 {
                let party = try pki.issue(.auditor, "mona", key: key)
                try files.replace(party.chain)
                let read = try files.read()
                #expect(read.chain == party.chain && read.key.uri == self.uri("mona"))
            }
            #expect(throws: PKIError(.signing, "")) {
                try files.replace(try pki.issue(.auditor, "mona").chain)
            }
            let lock = try files.lock()
            #expect(lock != nil)
        }
        let names = try FileManager.default.contentsOfDirectory(atPath: self.folder.path)
        #expect(!names.contains { $0.contains(".next") }, "\(names)")
        // A file says where the PIN is from its own folder.
        try self.folder.write("1234\n", to: "own-pin")
        try self.folder.write(
            "pkcs11:token=\(self.token);object=mona?module-path=\(SoftHSM.module ?? "")&pin-source=file:own-pin\n",
            to: "relative.key")
        let relative = try KeyFile.read(self.folder.path("relative.key"), hardware: self.keys)
        #expect(relative.publicKey.rawRepresentation == key.publicKey.rawRepresentation)
        #expect(throws: PKIError(.hardware, "")) { try KeyFile.read(self.folder.path("relative.key")) }
        // A token in the place of a broken one has no such key yet.
        try self.folder.write(
            "pkcs11:token=\(self.token);object=new?module-path=\(SoftHSM.module ?? "")&pin-source=own-pin",
            to: "new.key")
        let new = IdentityFiles(certificate: pem, key: self.folder.path("new.key"), hardware: self.keys)
        let made = try new.prepareKey()
        #expect(made.publicKey.rawRepresentation != key.publicKey.rawRepresentation)
        #expect(try new.prepareKey().publicKey.rawRepresentation == made.publicKey.rawRepresentation)
        #expect(throws: PKIError(.signing, "")) { try new.read() }
    }

    // MARK: TLS

    /// A key in a token that is not there.
    private struct Gone: HardwareKey {
        let publicKey = P256.Signing.PrivateKey().publicKey
        func sign(_ digest: some Digest) throws -> P256.Signing.ECDSASignature { throw PKIError(.signing, "gone") }
    }

    private final class Peer: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer

        let seen: EventLoopPromise<String>

        init(_ seen: EventLoopPromise<String>) { self.seen = seen }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            guard case .handshakeCompleted = event as? TLSUserEvent else {
                return context.fireUserInboundEventTriggered(event)
            }
            let version = (try? context.pipeline.syncOperations.handler(type: NIOSSLHandler.self))?.tlsVersion
            self.seen.succeed(version == .tlsv13 ? "TLS 1.3" : "\(String(describing: version))")
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            self.seen.fail(error)
            context.close(promise: nil)
        }

        func channelInactive(context: ChannelHandlerContext) { self.seen.fail(ChannelError.ioOnClosedChannel) }
    }

    private func handshake(_ server: NIOSSLContext, _ client: NIOSSLContext) async throws -> (String, String) {
        let group = MultiThreadedEventLoopGroup.singleton
        let promises = (group.next().makePromise(of: String.self), group.next().makePromise(of: String.self))
        let listener = try await ServerBootstrap(group: group)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers(
                        NIOSSLServerHandler(context: server), Peer(promises.0))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let channel = try await ClientBootstrap(group: group)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers(
                        NIOSSLClientHandler(context: client, serverHostname: "localhost"), Peer(promises.1))
                }
            }
            .connect(to: listener.localAddress ?? SocketAddress(ipAddress: "127.0.0.1", port: 0)).get()
        let result: Result<(String, String), any Error>
        do {
            result = .success(
                try await withDeadline(.seconds(30), "a handshake") {
                    (try await promises.0.futureResult.get(), try await promises.1.futureResult.get())
                })
        } catch {
            result = .failure(error)
        }
        try? await channel.close()
        try await listener.close()
        // Each promise is kept, however it ended.
        for promise in [promises.0, promises.1] { promise.fail(CancellationError()) }
        return try result.get()
    }

    @Test("Both sides of a TLS 1.3 handshake have their keys in a token; where a key does not sign there is none")
    func mutualTLS() async throws {
        let pki = try TestPKI()
        let roots = NIOSSLTrustRoots.certificates(try [pki.root.certificate].tlsCertificates)
        func context(_ role: Role, _ id: String, key: SigningKey) throws -> NIOSSLContext {
            let party = try pki.issue(role, id, key: key)
            let chain = try party.chain.tlsCertificates.map { NIOSSLCertificateSource.certificate($0) }
            var configuration =
                role == .broker
                ? TLSConfiguration.makeServerConfigurationWithMTLS(
                    certificateChain: chain, privateKey: try party.key.tlsKey, trustRoots: roots)
                : TLSConfiguration.makeClientConfiguration()
            configuration.minimumTLSVersion = .tlsv13
            configuration.trustRoots = roots
            configuration.certificateChain = chain
            configuration.privateKey = try party.key.tlsKey
            return try NIOSSLContext(configuration: configuration)
        }
        let server = try context(.broker, "broker-1", key: try self.keys.openOrMake(self.uri("broker-1")))
        let client = try context(.auditor, "mona", key: try self.keys.openOrMake(self.uri("mona")))
        for _ in 0..<5 {
            let seen = try await self.handshake(server, client)
            #expect(seen.0 == "TLS 1.3" && seen.1 == "TLS 1.3")
        }
        // A key that does not sign ends the handshake, on either side.
        for absent in [Role.broker, .auditor] {
            let broken = try context(absent, "gone", key: SigningKey(Gone()))
            await #expect(throws: (any Error).self) {
                try await self.handshake(absent == .broker ? broken : server, absent == .broker ? client : broken)
            }
        }
    }
}
