import ArgumentParser
import Auditor
import CertificateAuthority
import ControlCenter
import Enrolment
import Foundation
import Identity
import LiCore
import MQTTBroker
import MQTTClient
import PKI
import Telemetry

/// How a command ends for a script: sysexits(3).
struct ExitStatus: Hashable, Sendable {
    let code: Int32

    /// EX_USAGE: the command line is wrong.
    static let usage = ExitStatus(code: 64)
    /// EX_DATAERR: what was read is wrong.
    static let badData = ExitStatus(code: 65)
    /// EX_NOINPUT: a file to be read is not there.
    static let noInput = ExitStatus(code: 66)
    /// EX_UNAVAILABLE: another party cannot be reached.
    static let unavailable = ExitStatus(code: 69)
    /// EX_SOFTWARE: an error of ours.
    static let software = ExitStatus(code: 70)
    /// EX_CANTCREAT: something is there already, or cannot be made.
    static let cannotCreate = ExitStatus(code: 73)
    /// EX_IOERR: reading or writing failed.
    static let io = ExitStatus(code: 74)
    /// EX_PROTOCOL: another party answers what it should not.
    static let protocolError = ExitStatus(code: 76)
    /// EX_NOPERM: permissions are too wide or too narrow.
    static let permission = ExitStatus(code: 77)
    /// EX_CONFIG: the configuration is wrong.
    static let configuration = ExitStatus(code: 78)
}

/// What a person is told: one line that says what is wrong and what to do.
struct CommandError: Error, CustomStringConvertible {
    let status: ExitStatus
    let description: String

    init(_ status: ExitStatus, _ description: String) {
        self.status = status
        self.description = description
    }

    /// The line and the exit code for an error from below. Modules with errors of their own add a case here.
    init(_ error: any Error) {
        switch error {
        case let error as CommandError: self = error
        case let error as PKIError: self.init(Self.status(of: error), error.reason)
        case let error as IdentityError: self.init(.usage, error.reason)
        case let error as ControlCenterError: self.init(Self.status(of: error), error.reason)
        case let error as BrokerError: self.init(Self.status(of: error), error.reason)
        case let error as MQTTClientError: self.init(.configuration, error.reason)
        case let error as MeterSourceError: self.init(Self.status(of: error), error.description)
        case let error as LiCoreError: self.init(.badData, error.reason)
        case let error as OutboxError: self.init(Self.status(of: error), error.reason)
        case let error as EnrolmentError: self.init(Self.status(of: error), error.reason)
        case let error as Refusal: self.init(.usage, error.detail)
        default: self.init(.software, Self.oneLine("\(error)"))
        }
    }

    /// Ends the process as the error says.
    static func exit(with error: any Error) -> Never {
        switch error {
        case is CommandError, is PKIError, is IdentityError, is ControlCenterError, is BrokerError, is MQTTClientError,
            is MeterSourceError, is OutboxError, is LiCoreError, is EnrolmentError,
            is Refusal:
            Self(error).exit()
        default:
            // Help and version are ArgumentParser's to tell; so is a plain exit code.
            let code = SecureMQTT.exitCode(for: error)
            if code == .validationFailure { Self.usage(error).exit() }
            if code == .success || error is ExitCode { SecureMQTT.exit(withError: error) }
            Self(error).exit()
        }
    }

    /// A wrong command line, in one line, with the help that would tell how it is right.
    private static func usage(_ error: any Error) -> CommandError {
        let lines = SecureMQTT.fullMessage(for: error).split(whereSeparator: \.isNewline)
        let said = SecureMQTT.message(for: error).split(whereSeparator: \.isNewline)
        var message = said.first ?? "wrong usage"
        if message.hasSuffix(":") {
            // What may stand there is listed below.
            let words = said.dropFirst().map { $0.drop { $0 == " " || $0 == "-" } }.prefix { !$0.isEmpty }
            message += " " + words.joined(separator: ", ")
        }
        let hint = lines.last { $0.contains("--help") }?.firstMatch(of: /'([^']*--help)'/)?.1
        let text = message.hasSuffix(".") ? message.dropLast() : message
        return CommandError(.usage, "\(text); see \(hint ?? "secure-mqtt --help")")
    }

    func exit() -> Never {
        Terminal.standardError.write("secure-mqtt: \(Self.oneLine(self.description))\n")
        Foundation.exit(self.status.code)
    }

    private static func status(of error: PKIError) -> ExitStatus {
        switch error.code {
        case .exists: .cannotCreate
        case .missing: .noInput
        case .permissions, .passphrase: .permission
        case .io: .io
        case .hardware: .unavailable
        case .signing: .software
        default: .badData
        }
    }

    private static func status(of error: ControlCenterError) -> ExitStatus {
        switch error.code {
        case .stateInUse: .unavailable
        case .stateUnusable: .cannotCreate
        case .storeDamaged: .badData
        case .identity: .configuration
        default: .io
        }
    }

    private static func status(of error: BrokerError) -> ExitStatus {
        switch error.code {
        case .configuration, .notAuthorized: .configuration
        case .listen, .storeInUse: .unavailable
        case .storeDamaged: .badData
        case .storeUnusable: .cannotCreate
        case .storeFailed: .io
        default: .software
        }
    }

    private static func status(of error: MeterSourceError) -> ExitStatus {
        switch error.code {
        case .io: .noInput
        case .options: .usage
        default: .badData
        }
    }

    private static func status(of error: OutboxError) -> ExitStatus {
        switch error.code {
        case .locked: .unavailable
        case .io, .full: .io
        default: .badData
        }
    }

    private static func status(of error: EnrolmentError) -> ExitStatus {
        switch error.code {
        case .address: .usage
        case .fingerprint, .request: .badData
        case .unreachable, .busy: .unavailable
        case .untrusted, .token, .forbidden: .permission
        case .conflict: .cannotCreate
        case .clock: .configuration
        default: .protocolError
        }
    }

    private static func oneLine(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).joined(separator: " ")
    }
}
