import ArgumentParser
import CertificateAuthority
import Enrolment
import Foundation
import PKI
import X509

/// `--ca` and `--as`: through the API of an authority that runs elsewhere, as an operator.
struct RemoteAuthorityOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Ask the authority's process at https://HOST:PORT, instead of its folder here.", valueName: "url"))
    var ca: String?

    @Option(
        name: .customLong("as"),
        help: ArgumentHelp("With --ca: the folder with operator.pem and operator.key.", valueName: "dir"))
    var operatorFolder: String?

    @Option(
        help: ArgumentHelp(
            "With --ca: the root certificate (default: root.pem of --as, else trust.root of the configuration).",
            valueName: "file"))
    var caRoot: String?

    func validate() throws {
        guard (self.ca == nil) == (self.operatorFolder == nil) else {
            throw ValidationError("--ca URL and --as DIR belong together")
        }
    }

    /// Nil without `--ca`.
    func client(_ authority: AuthorityOptions) async throws -> AuthorityClient? {
        guard let ca, let operatorFolder else { return nil }
        let address = try AuthorityAddress(ca)
        let root: String
        if let caRoot {
            root = caRoot
        } else if FileManager.default.fileExists(atPath: "\(operatorFolder)/root.pem") {
            root = "\(operatorFolder)/root.pem"
        } else if try authority.configuration.findFile() != nil {
            root = try await authority.configuration.load().trust.root
        } else {
            throw CommandError(.usage, "give --ca-root FILE: the root certificate by which the authority is known")
        }
        return try AuthorityClient(
            address, roots: try CertificateFile.read(root),
            chain: try CertificateFile.read("\(operatorFolder)/operator.pem"),
            key: try KeyFile.open("\(operatorFolder)/operator.key"))
    }
}

enum AuthorityAccess {
    /// Runs `body`, then closes the client.
    static func using<Answer: Sendable>(
        _ client: AuthorityClient, _ body: (AuthorityClient) async throws -> Answer
    ) async throws -> Answer {
        do {
            let answer = try await body(client)
            await client.close()
            return answer
        } catch {
            await client.close()
            throw error
        }
    }
}
