import Foundation
public import Logging
public import PKI
public import ServiceLifecycle
public import Telemetry
public import X509

/// Keeps a party's certificate young: renews it in time, and takes what others put in its place.
///
/// The files are looked at once a second, whoever changed them: this service, `auditor renew` or
/// `auditor join --renew` in another process, or a person. It works on the files alone, so a crash at any
/// moment leaves a pair that works.
public final class RenewalService: Service {
    /// What the service needs of the world around it.
    public struct Actions: Sendable {
        /// Exchanges the pair on disk for a renewed one; `nil` if there is no authority to ask.
        public var renew: (@Sendable () async throws -> Void)?
        /// Learns whom to trust from now on, once a day; `nil` if there is no authority to ask.
        public var refresh: (@Sendable () async throws -> Void)?
        /// Checks a pair that is on disk.
        public var verify: @Sendable ([Certificate], SigningKey) throws -> VerifiedIdentity
        /// Goes on under another pair.
        public var adopt: @Sendable (VerifiedIdentity, SigningKey) async throws -> Void
        public var raise: @Sendable (Alarm) async -> Void
        public var clear: @Sendable (Alarm.Kind) async -> Void

        public init(
            renew: (@Sendable () async throws -> Void)?, refresh: (@Sendable () async throws -> Void)? = nil,
            verify: @escaping @Sendable ([Certificate], SigningKey) throws -> VerifiedIdentity,
            adopt: @escaping @Sendable (VerifiedIdentity, SigningKey) async throws -> Void,
            raise: @escaping @Sendable (Alarm) async -> Void = { _ in },
            clear: @escaping @Sendable (Alarm.Kind) async -> Void = { _ in }
        ) {
            self.renew = renew
            self.refresh = refresh
            self.verify = verify
            self.adopt = adopt
            self.raise = raise
            self.clear = clear
        }
    }

    /// Between two looks at whom to trust, in seconds.
    static let lookInterval: UnixTime = 86_400

    private let files: IdentityFiles
    private let actions: Actions
    private let current: VerifiedIdentity
    private let report: String?
    private let advice: String
    private let clock: @Sendable () -> UnixTime
    private let pause: Duration
    private let randomness: any RandomNumberGenerator & Sendable
    private let logger: Logger

    /// - Parameters:
    ///   - current: The identity in use, which the files had.
    ///   - report: The file that says how renewal goes, for `auditor status`; `nil` for none.
    ///   - advice: What a person is to do when the certificate cannot renew itself.
    ///   - pause: How often the files are looked at.
    public init(
        files: IdentityFiles, current: VerifiedIdentity, actions: Actions, report: String? = nil,
        advice: String = RenewalMachine.adviceForAuditors,
        pause: Duration = .seconds(1),
        clock: @escaping @Sendable () -> UnixTime = { Timestamp.now.seconds },
        randomness: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator(),
        logger: Logger = Logger(label: "renewal")
    ) {
        self.files = files
        self.current = current
        self.actions = actions
        self.report = report
        self.advice = advice
        self.pause = pause
        self.clock = clock
        self.randomness = randomness
        self.logger = logger
    }

    public func run() async throws {
        await cancelWhenGracefulShutdown { await self.work() }
    }

    private func work() async {
        var random = AnyRandom(self.randomness)
        var hash = self.current.certificateHash
        var machine = RenewalMachine(
            validity: self.current.validity, canRenew: self.actions.renew != nil, advice: self.advice,
            using: &random)
        // It may have been exchanged since it was read.
        var known: FileMark?
        self.write(machine)
        // Not all of a fleet that started together at once.
        var nextLook = self.clock() + UnixTime.random(in: 0...Self.lookInterval, using: &random)
        while !Task.isCancelled {
            if let refresh = self.actions.refresh, self.clock() >= nextLook {
                nextLook = self.clock() + Self.lookInterval
                do {
                    try await refresh()
                } catch {
                    self.logger.info("the authority was not asked", metadata: ["reason": "\(error)"])
                }
            }
            if let mark = self.files.mark, mark != known {
                known = mark
                if let (identity, key) = self.read(), identity.certificateHash != hash {
                    do {
                        try await self.actions.adopt(identity, key)
                        hash = identity.certificateHash
                        let actions = machine.renewed(identity.validity, at: self.clock(), using: &random)
                        self.logger.notice(
                            "the certificate was renewed",
                            metadata: ["until": "\(CivilTime(identity.validity.upperBound).iso8601)"])
                        self.write(machine)
                        await self.carryOut(actions)
                    } catch {
                        self.logger.error("the new certificate cannot be used", metadata: ["reason": "\(error)"])
                        await self.fail(&machine, "\(error)", using: &random)
                    }
                }
            }
            let actions = machine.tick(at: self.clock())
            await self.carryOut(actions)
            if actions.contains(.renew) {
                do {
                    try await self.actions.renew?()
                    // What is on disk now is taken at once.
                    known = nil
                    let renewed = self.read()?.identity.certificateHash
                    if renewed == nil || renewed == hash {
                        let reason = "the certificate that came is not in its place"
                        await self.fail(&machine, reason, using: &random)
                    }
                    continue
                } catch {
                    guard !Task.isCancelled else { return }
                    await self.fail(&machine, "\(error)", using: &random)
                    self.logger.warning(
                        "the certificate could not be renewed",
                        metadata: [
                            "reason": "\(error)", "until": "\(CivilTime(machine.validity.upperBound).iso8601)",
                            "next": "\(CivilTime(machine.nextTry).iso8601)",
                        ])
                }
            }
            try? await Task.sleep(for: self.pause)
        }
    }

    private func read() -> (identity: VerifiedIdentity, key: SigningKey)? {
        do {
            let (chain, key) = try self.files.read()
            return (try self.actions.verify(chain, key), key)
        } catch {
            self.logger.error("certificate and key on disk cannot be used", metadata: ["reason": "\(error)"])
            return nil
        }
    }

    private func fail(_ machine: inout RenewalMachine, _ reason: String, using random: inout AnyRandom) async {
        let actions = machine.failed(reason, at: self.clock(), using: &random)
        self.write(machine)
        await self.carryOut(actions)
    }

    private func carryOut(_ actions: [RenewalMachine.Action]) async {
        for action in actions {
            switch action {
            case .renew: break
            case .raise(let alarm): await self.actions.raise(alarm)
            case .clear(let kind): await self.actions.clear(kind)
            }
        }
    }

    private func write(_ machine: RenewalMachine) {
        guard let report else { return }
        do {
            try RenewalReport(machine, canRenew: self.actions.renew != nil).write(to: report)
        } catch {
            self.logger.warning("the state of the renewal cannot be written", metadata: ["reason": "\(error)"])
        }
    }
}

/// How renewal goes, as `auditor status` reads it from the state directory.
public struct RenewalReport: Codable, Hashable, Sendable {
    /// When it is tried next, in Unix seconds; `nil` if there is no authority to ask.
    public var nextTry: UnixTime?
    public var failures: Int
    public var lastFailure: String?

    public static func path(in directory: String) -> String { "\(directory)/renewal.json" }

    init(_ machine: RenewalMachine, canRenew: Bool) {
        self.nextTry = canRenew ? machine.nextTry : nil
        self.failures = machine.failures
        self.lastFailure = machine.lastFailure
    }

    func write(to path: String) throws {
        try DurableFile.replace(path, Array(try JSONEncoder().encode(self)), mode: 0o644)
    }

    /// - Returns: `nil` if there is none that can be read.
    public init?(reading path: String) {
        guard let bytes = try? DurableFile.read(path, maximumSize: 65_536),
            let report = try? JSONDecoder().decode(Self.self, from: Data(bytes))
        else { return nil }
        self = report
    }
}
