import ArgumentParser
import Foundation
import PKI

/// Where passphrases come from: a credential file, systemd's credentials, or a question without echo.
enum PassphraseSources {
    /// The credential of systemd's LoadCredential= that is looked for.
    static let credential = "ca-passphrase"

    /// - Parameter file: the credential file that was named; nil for the other places.
    static func source(file: String?) -> PassphraseSource {
        { (path) throws(PKIError) in
            if let passphrase = try Self.stored(file: file) { return passphrase }
            guard let text = Self.ask("Passphrase of \(path): ") else {
                throw PKIError(
                    .passphrase, "\(path) is encrypted: give --passphrase-file FILE, or ca.passphrase-file")
            }
            return try Passphrase(text)
        }
    }

    /// Of a key that is made now: as ``source(file:)``, but what is typed is asked for twice.
    static func new(_ what: String, file: String?) throws -> Passphrase {
        if let passphrase = try Self.stored(file: file) { return passphrase }
        guard let first = Self.ask("New passphrase of \(what): ") else {
            throw CommandError(.usage, "give --passphrase-file FILE (mode 0600), or --unencrypted, for \(what)")
        }
        guard Self.ask("Once more: ") == first else {
            throw CommandError(.usage, "that was not the same passphrase: nothing was made")
        }
        return try Passphrase(first)
    }

    /// Out of the file that was named, or systemd's credential; nil if there is neither.
    private static func stored(file: String?) throws(PKIError) -> Passphrase? {
        let folder = ProcessInfo.processInfo.environment["CREDENTIALS_DIRECTORY"]
        if let file {
            let isCredential = folder.map { URL(fileURLWithPath: file).deletingLastPathComponent().path == $0 }
            return try Passphrase.read(file, groupMayRead: isCredential ?? false)
        }
        guard let folder, FileManager.default.fileExists(atPath: "\(folder)/\(Self.credential)") else { return nil }
        return try Passphrase.read("\(folder)/\(Self.credential)", groupMayRead: true)
    }

    /// Asks on the terminal, without showing what is typed. Nil without a terminal.
    static func ask(_ question: String) -> String? {
        guard isatty(STDIN_FILENO) == 1, Terminal.standardError.isTerminal else { return nil }
        var shown = termios()
        guard tcgetattr(STDIN_FILENO, &shown) == 0 else { return nil }
        var hidden = shown
        hidden.c_lflag &= ~tcflag_t(ECHO)
        guard tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden) == 0 else { return nil }
        defer { tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown) }
        Terminal.standardError.write(question)
        let answer = readLine()
        Terminal.standardError.write("\n")
        return answer
    }
}

/// For commands that make keys of an authority.
struct NewKeyOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The passphrase of the authority's keys, in a file of mode 0600. Asked for on a terminal.",
            valueName: "file"))
    var passphraseFile: String?

    @Flag(help: "Leave the authority's keys to file permissions alone.")
    var unencrypted = false

    @Option(
        help: ArgumentHelp(
            "Use this key in a token for the issuing intermediate, or make it there: pkcs11:token=...",
            valueName: "uri"))
    var issuingKey: String?

    @Option(
        help: ArgumentHelp(
            "Use this key in a token for the root, or make it there: pkcs11:token=...", valueName: "uri"))
    var rootKey: String?

    func validate() throws {
        guard !self.unencrypted || self.passphraseFile == nil else {
            throw ValidationError("--unencrypted and --passphrase-file contradict each other")
        }
    }

    /// - Returns: nil if keys shall not be encrypted, or none is in a file.
    func passphrase(for what: String) throws -> Passphrase? {
        if self.unencrypted || self.issuingKey != nil && self.rootKey != nil { return nil }
        return try PassphraseSources.new(what, file: self.passphraseFile)
    }

    /// New ones, or those in tokens.
    func keys() throws(PKIError) -> (root: SigningKey, issuing: SigningKey) {
        let root = try KeyFile.makeKey(inToken: self.rootKey)
        return (root, try KeyFile.makeKey(inToken: self.issuingKey))
    }
}

/// Who acts on the authority's own machine, for its record.
enum Requester {
    static var local: String { "local \(NSUserName())" }
}

/// A certificate signing request on disk.
enum SigningRequestFile {
    static func read(_ path: String) throws -> EnrolmentRequest {
        let bytes = try DurableFile.read(path, maximumSize: 65_536)
        do throws(PKIError) {
            return try EnrolmentRequest(text: bytes)
        } catch {
            throw CommandError(.badData, "\(path): \(error.reason)")
        }
    }
}
