import ArgumentParser
import Enrolment
import Foundation
import Identity
import PKI
import SwiftASN1
import X509

struct PKIRequestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "request",
        abstract: "Make a key on this device, and a request to have it certified.",
        discussion: """
            The key stays here, in a file or, with --key, in a token (PKCS#11); only the request travels.

            EXAMPLE
              On the device:     secure-mqtt pki request anna
              On the authority:  secure-mqtt pki issue auditor anna --csr anna.csr
              On the device:     anna.pem beside anna.key
            """)

    @Argument(help: ArgumentHelp("The ID that is asked for.", valueName: "id"))
    var id: String

    @Option(name: [.long, .short], help: ArgumentHelp("The folder for <id>.key and <id>.csr.", valueName: "dir"))
    var out: String = "."

    @Option(
        help: ArgumentHelp(
            "Use this key in a token, or make it there; <id>.key then holds this URI: pkcs11:token=...",
            valueName: "uri"))
    var key: String?

    func run() async throws {
        let id = try Identifier(self.id)
        let (keyPath, requestPath) = ("\(self.out)/\(id).key", "\(self.out)/\(id).csr")
        for path in [keyPath, requestPath] where FileManager.default.fileExists(atPath: path) {
            throw CommandError(.cannotCreate, "\(path) exists already and is not overwritten")
        }
        let key = try KeyFile.makeKey(inToken: self.key)
        let request = try CertificateSigningRequest.make(for: id, key: key)
        try KeyFile.create(keyPath, key)
        let pem = try request.serializeAsPEM().pemString + "\n"
        try DurableFile.create(requestPath, Array(pem.utf8), mode: 0o644)
        Terminal.standardOutput.line("Made \(keyPath) and \(requestPath).")
    }
}
