import Auditor
import Enrolment
import Foundation
import Identity
import Logging
import MQTTClient
import PKCS11
import PKI
import Synchronization
import Telemetry
import X509

/// An auditor's identity on its device: certificate, key, whom it trusts, and how all of that changes while it runs.
struct DeviceIdentity: Sendable {
    let settings: InstallationConfiguration
    let auditor: AuditorSettings
    let files: IdentityFiles
    let identity: VerifiedIdentity
    let key: SigningKey
    /// Whom it trusted at the start, with the newest revocation lists that the device has heard of.
    let trust: IdentityVerifier
    private let parts: ServerParts
    private let memory: RevocationMemory
    private let connection = Connection()

    /// What changes with each connection.
    private final class Connection: Sendable {
        struct State: Sendable {
            /// What it is made with.
            var configuration: MQTTClientConfiguration?
            /// The broker that was let in last.
            var broker: AdmittedPeer?
        }

        let state = Mutex(State())
    }

    /// Reads it. An expired certificate is no obstacle: readings are signed and kept until a new one has come.
    ///
    /// - Throws: ``CommandError`` if it is another's, `PKIError` if it cannot be used: `revoked`, `not-yet-valid` when
    ///   the clock is behind.
    init(_ settings: InstallationConfiguration, _ auditor: AuditorSettings) throws {
        self.settings = settings
        self.auditor = auditor
        self.files = IdentityFiles(certificate: auditor.certificate, key: auditor.key, hardware: PKCS11Keys())
        self.parts = try ServerParts(settings)
        self.memory = RevocationMemory(directory: auditor.state)
        self.trust = try Self.readTrust(settings, self.memory)
        for list in self.memory.read() { try? self.parts.gate.update([list]) }
        let (chain, key) = try self.files.read()
        self.key = key
        self.identity = try Self.verify(chain, for: auditor, trust: trust)
    }

    /// Whom it trusts, as the files say now.
    private static func readTrust(
        _ settings: InstallationConfiguration, _ memory: RevocationMemory
    ) throws -> IdentityVerifier {
        var trust = try settings.trust.makeVerifier()
        // Those of the configuration may be newer; those of a former authority are of no use.
        for list in memory.read() { try? trust.update([list]) }
        return trust
    }

    private static func verify(
        _ chain: [Certificate], for auditor: AuditorSettings, trust: IdentityVerifier
    ) throws -> VerifiedIdentity {
        let identity: VerifiedIdentity
        do {
            identity = try trust.verify(chain: chain, at: .now, roles: [.auditor])
        } catch {
            switch error.code {
            case .expired: identity = try trust.verifyAtIssue(der: chain.map(\.der), roles: [.auditor])
            case .revoked:
                throw CommandError(.permission, "\(error.reason): \(RenewalMachine.adviceForAuditors)")
            case .notYetValid:
                throw CommandError(.configuration, "\(error.reason): is this device's clock right?")
            default: throw error
            }
        }
        guard identity.spiffeID.id == auditor.id else {
            throw CommandError(
                .configuration, "the certificate is of \(identity.spiffeID.id), not of \(auditor.id)")
        }
        return identity
    }

    // MARK: The connection

    func clientConfiguration() throws -> MQTTClientConfiguration {
        try self.clientConfiguration(self.identity, self.key)
    }

    private func clientConfiguration(
        _ identity: VerifiedIdentity, _ key: SigningKey
    ) throws -> MQTTClientConfiguration {
        let connection = self.connection
        let configuration = try self.parts.clientConfiguration(
            of: identity.spiffeID, chain: [identity.certificate, identity.intermediate], key: key,
            subscriptions: AuditorService.subscriptions(for: self.auditor.id),
            admitted: { peer in connection.state.withLock { $0.broker = peer } })
        connection.state.withLock { $0.configuration = configuration }
        return configuration
    }

    /// Takes a newer revocation list, which the auditor has verified: on disk, and for every TLS connection
    /// from now on.
    /// If the broker that we are connected to is on it, that connection ends.
    func keep(_ list: RevocationList, bus: RenewableClientBus) {
        let logger = Logger(label: "revocation")
        do {
            if try self.memory.keep(list) {
                logger.info(
                    "a newer revocation list", metadata: ["issuer": "\(list.issuer)", "number": "\(list.number)"])
            }
        } catch {
            // Without a disk it holds as long as the process does.
            logger.error("a revocation list cannot be kept", metadata: ["reason": "\(error)"])
        }
        // Not only one that is news on the disk: a renewal may have put it there. The gate refuses older ones.
        try? self.parts.gate.update([list])
        self.recheckBroker(bus)
    }

    /// Ends the connection to a broker that is not to be trusted any more.
    private func recheckBroker(_ bus: RenewableClientBus) {
        let logger = Logger(label: "revocation")
        let (configuration, broker) = self.connection.state.withLock { ($0.configuration, $0.broker) }
        guard let configuration, let broker else { return }
        do {
            try self.parts.gate.requireStanding(broker, at: .now)
        } catch {
            logger.warning("the broker is not to be trusted any more", metadata: ["reason": "\(error)"])
            try? bus.replace(configuration)
        }
    }

    // MARK: Renewal

    /// Exchanges the pair on disk for a renewed one.
    ///
    /// - Returns: The new identity.
    /// - Throws: ``CommandError`` `unavailable` if another process does the same now; `EnrolmentError`, `PKIError`.
    @discardableResult
    func renew(keepingKey: Bool? = nil, evenIfExpired: Bool = false) async throws -> VerifiedIdentity {
        guard let text = self.auditor.authority else {
            throw CommandError(
                .configuration,
                "auditor.authority is not set: the configuration does not say who renews the certificate")
        }
        let address = try AuthorityAddress(text)
        guard let lock = try self.files.lock() else {
            throw CommandError(.unavailable, "another process renews \(self.files.certificate) now")
        }
        defer { withExtendedLifetime(lock) {} }
        let (chain, key) = try self.files.read()
        let held = try Self.readTrust(self.settings, self.memory)
        let current = try Self.verify(chain, for: self.auditor, trust: held)
        if !evenIfExpired { try Renewing.requireValid(current, at: .now) }
        let trust = try await self.learn(Renewing(address: address, trust: held, gate: self.parts.gate))
        let renewing = Renewing(address: address, trust: trust, gate: self.parts.gate)
        let keepsKey = keepingKey ?? (self.auditor.keepsKey || self.files.isInHardware)
        let next = try keepsKey ? key : self.files.prepareKey()
        let renewed = try await renewing.renew(
            current, by: ESTClient.Credentials(chain: [current.certificate, current.intermediate], key: key),
            key: next, evenIfExpired: evenIfExpired, clock: { .now })
        try self.files.replace(renewed.chain)
        return renewed.identity
    }

    /// Asks the authority for its roots, intermediates and lists, and writes down what is new.
    ///
    /// - Returns: whom to trust now.
    private func learn(_ renewing: Renewing) async throws -> IdentityVerifier {
        let trust = try await renewing.newestTrust()
        let settings = self.settings.trust
        if let path = settings.intermediates {
            let known = try CertificateFile.read(path)
            let new = trust.intermediateCertificates.filter { !known.contains($0) }
            if !new.isEmpty {
                try DurableFile.replace(path, Array((known + new).map(\.pemText).joined().utf8), mode: 0o644)
            }
        }
        let known = try CertificateFile.read(settings.root)
        let new = trust.rootCertificates.filter { !known.contains($0) }
        if !new.isEmpty {
            try DurableFile.replace(settings.root, Array((known + new).map(\.pemText).joined().utf8), mode: 0o644)
            for root in new {
                Logger(label: "renewal").notice(
                    "the authority has another root, which is trusted from now on",
                    metadata: ["sha256": "\(root.sha256.hexadecimal)"])
            }
        }
        var judge = trust
        // Of those too that were learnt just now.
        let all = Renewing(address: renewing.address, trust: trust, gate: renewing.gate)
        for list in try await all.revocationLists() where (try? judge.update([list])) != nil {
            try self.memory.keep(list)
        }
        return trust
    }

    /// As ``learn(_:)``, and the auditor goes on with what was learnt. Once a day: a new root comes long before anything
    /// hangs on it.
    private func refresh(_ service: AuditorService, bus: RenewableClientBus) async throws {
        guard let text = self.auditor.authority else { return }
        let held = try Self.readTrust(self.settings, self.memory)
        let trust = try await self.learn(
            Renewing(address: try AuthorityAddress(text), trust: held, gate: self.parts.gate))
        if Set(trust.rootCertificates) != Set(held.rootCertificates)
            || Set(trust.intermediateCertificates) != Set(held.intermediateCertificates)
        {
            try self.parts.replaceTrust(trust.revocationLists)
        }
        for list in self.memory.read() { try? self.parts.gate.update([list]) }
        self.recheckBroker(bus)
        await service.trust(try Self.readTrust(self.settings, self.memory))
    }

    /// Keeps the certificate young while the auditor runs.
    func makeRenewal(of service: AuditorService, bus: RenewableClientBus) -> RenewalService {
        var renew: (@Sendable () async throws -> Void)?
        var refresh: (@Sendable () async throws -> Void)?
        if self.auditor.authority != nil {
            renew = { _ = try await self.renew() }
            refresh = { try await self.refresh(service, bus: bus) }
        }
        return RenewalService(
            files: self.files, current: self.identity,
            actions: RenewalService.Actions(
                renew: renew, refresh: refresh,
                verify: { chain, _ in
                    try Self.verify(
                        chain, for: self.auditor, trust: try Self.readTrust(self.settings, self.memory))
                },
                adopt: { identity, key in
                    let signer = try CertificateSigner(identity, key: key)
                    // The broker, too, may be under an authority that came with the certificate.
                    try self.parts.replaceTrust(try Self.readTrust(self.settings, self.memory).revocationLists)
                    await service.trust(try Self.readTrust(self.settings, self.memory))
                    let configuration = try self.clientConfiguration(identity, key)
                    await service.renew(
                        signer, certificateChain: [identity.certificate, identity.intermediate].map(\.der))
                    try bus.replace(configuration)
                },
                raise: { await service.raise($0) },
                clear: { await service.clear($0) }),
            report: RenewalReport.path(in: self.auditor.state))
    }
}

/// What `auditor status` says of the certificate.
struct CertificateStatus: Encodable {
    let spiffeID: String
    /// `valid`, `expired`, `revoked`, or why it cannot be used.
    let status: String
    let from: String
    let until: String
    let daysLeft: Int
    /// When it is renewed, or tried again; nil if nobody renews it by itself.
    let renewal: String?
    let renewalFailures: Int
    let renewalFailure: String?

    /// - Returns: nil if the configuration names no certificate that can be read.
    init?(_ settings: InstallationConfiguration, at now: UnixTime) {
        guard let auditor = settings.auditor, let chain = try? CertificateFile.read(auditor.certificate),
            var trust = try? settings.trust.makeVerifier()
        else { return nil }
        for list in RevocationMemory(directory: auditor.state).read() { try? trust.update([list]) }
        let leaf = chain[0]
        do {
            _ = try trust.verifyAtIssue(der: chain.map(\.der), roles: [.auditor])
            self.status =
                now > leaf.notAfter ? "expired" : now < leaf.notBefore ? "not valid yet: is the clock right?" : "valid"
        } catch {
            self.status = error.code == .revoked ? "revoked" : error.reason
        }
        self.spiffeID = "spiffe://\(settings.trust.domain)/auditor/\(auditor.id)"
        self.from = leaf.notBefore.iso8601
        self.until = leaf.notAfter.iso8601
        self.daysLeft = Int(max(0, leaf.notAfter - now) / 86_400)
        let report = RenewalReport(reading: RenewalReport.path(in: auditor.state))
        self.renewal = report?.nextTry.map { $0.iso8601 }
        self.renewalFailures = report?.failures ?? 0
        self.renewalFailure = report?.lastFailure
    }

    func add(to table: inout Table) {
        let isGood = self.status == "valid"
        table.add(["certificate", Table.Cell(self.status, isGood ? nil : .red)])
        table.add(["valid until", "\(self.until) (\(self.daysLeft) days)"])
        if let renewal {
            let failed = self.renewalFailures > 0
            table.add([
                "renewal",
                Table.Cell(
                    failed ? "failed \(self.renewalFailures) times, next try \(renewal)" : "due \(renewal)",
                    failed ? .red : nil),
            ])
        } else {
            table.add(["renewal", "not by itself"])
        }
        if let renewalFailure { table.add(["renewal failed", Table.Cell(renewalFailure, .red)]) }
    }
}
