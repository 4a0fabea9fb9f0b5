// RFC 7512, by p11-kit's parser.

import CP11Kit
import Foundation
import PKI

/// Which key, in which token, by which module, under which PIN:
/// `pkcs11:token=home;object=mona?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin`.
struct TokenURI: Hashable, Sendable {
    /// The longest that is read, in bytes.
    static let maximumLength = 2_048

    let text: String
    /// `module-path`: an absolute path, or a name in p11-kit's folder of modules.
    let modulePath: String
    /// `pin-source`, without its `file:`; nil if the token wants no PIN.
    let pinFile: String?
    /// `object`, as CKA_LABEL.
    let label: [UInt8]?
    /// `id`, as CKA_ID.
    let id: [UInt8]?

    /// What people are told of it: everything before the `?`.
    var name: String { String(self.text.prefix { $0 != "?" }) }

    /// - Throws: `PKIError` with code `format`, with the reason.
    init(_ text: String) throws(PKIError) {
        let name = String(text.prefix { $0 != "?" })
        func wrong(_ reason: String) -> PKIError { PKIError(.format, "\(name.prefix(200)): \(reason)") }
        guard text.utf8.count <= Self.maximumLength else { throw wrong("longer than \(Self.maximumLength) bytes") }
        let parsed = try ParsedURI(text)
        guard parsed.string(p11_kit_uri_get_pin_value) == nil else {
            throw wrong(
                "pin-value would show the PIN to everybody who reads this: put it into a file, pin-source=file:PATH")
        }
        guard let modulePath = parsed.string(p11_kit_uri_get_module_path), !modulePath.isEmpty else {
            throw wrong("say which module: ?module-path=/usr/lib/softhsm/libsofthsm2.so, for example")
        }
        self.text = text
        self.modulePath = modulePath
        self.label = parsed.attribute(CKA_LABEL)
        self.id = parsed.attribute(CKA_ID)
        guard self.label?.isEmpty == false || self.id?.isEmpty == false else {
            throw wrong("say which key: object=LABEL or id=%01, for example")
        }
        if let wanted = parsed.attribute(CKA_CLASS), wanted != bytes(of: CKO_PRIVATE_KEY) {
            throw wrong("type is private, or left out")
        }
        guard let source = parsed.string(p11_kit_uri_get_pin_source) else {
            self.pinFile = nil
            return
        }
        guard let path = Self.path(ofSource: source) else {
            throw wrong("pin-source names a file, such as pin-source=file:/etc/secure-mqtt/pin")
        }
        self.pinFile = path
    }

    /// `file:pin`, `file:/etc/pin`, `file:///etc/pin` or a path alone. Programs (`|...`) and other schemes are not run.
    private static func path(ofSource source: String) -> String? {
        var path = source[...]
        if path.hasPrefix("file:") {
            path = path.dropFirst(5)
            if path.hasPrefix("//") {
                path = path.dropFirst(2)
                guard path.hasPrefix("/") else { return nil }
            }
        } else if path.hasPrefix("|") || path.prefix(while: { $0 != "/" }).contains(":") {
            return nil
        }
        return path.isEmpty || path.contains("\0") ? nil : String(path)
    }

    /// The same, with a relative PIN file taken from this folder.
    func resolved(in folder: String) throws(PKIError) -> TokenURI {
        guard let pinFile, !pinFile.hasPrefix("/"), !folder.isEmpty else { return self }
        let path = folder.hasSuffix("/") ? folder + pinFile : "\(folder)/\(pinFile)"
        return try TokenURI(try ParsedURI(self.text).text(withPINSource: "file:\(path)"))
    }

    /// Whether a token is the one that is meant.
    func matches(_ token: CK_TOKEN_INFO) throws(PKIError) -> Bool { try ParsedURI(self.text).matches(token) }
}

/// p11-kit's form of a URI.
private final class ParsedURI {
    private let uri: OpaquePointer

    init(_ text: String) throws(PKIError) {
        guard let uri = p11_kit_uri_new() else { throw PKIError(.hardware, "p11-kit has no memory for a URI") }
        self.uri = uri
        let result = p11_kit_uri_parse(text, P11_KIT_URI_FOR_OBJECT_ON_TOKEN, uri)
        guard result == P11_KIT_URI_OK.rawValue, p11_kit_uri_any_unrecognized(uri) == 0 else {
            throw PKIError(
                .format,
                "\(Self.shown(text)) is no URI of a key in a token, such as "
                    + "pkcs11:token=home;object=mona?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin")
        }
    }

    deinit { p11_kit_uri_free(self.uri) }

    /// What of a URI may be said: a PIN may stand where it does not belong.
    private static func shown(_ text: String) -> String {
        let rest = text.range(of: "pin-value").map { String(text[..<$0.lowerBound]) } ?? text
        return String(rest.prefix { $0 != "?" }.prefix(200))
    }

    func string(_ get: (OpaquePointer) -> UnsafePointer<CChar>?) -> String? {
        get(self.uri).map { String(cString: $0) }
    }

    func attribute(_ type: CK_ATTRIBUTE_TYPE) -> [UInt8]? {
        guard let attribute = p11_kit_uri_get_attribute(self.uri, type) else { return nil }
        return Array(
            UnsafeRawBufferPointer(start: attribute.pointee.pValue, count: Int(attribute.pointee.ulValueLen)))
    }

    func matches(_ token: CK_TOKEN_INFO) -> Bool {
        withUnsafePointer(to: token) { p11_kit_uri_match_token_info(self.uri, $0) != 0 }
    }

    func text(withPINSource source: String) throws(PKIError) -> String {
        p11_kit_uri_set_pin_source(self.uri, source)
        var text: UnsafeMutablePointer<CChar>?
        guard p11_kit_uri_format(self.uri, P11_KIT_URI_FOR_OBJECT_ON_TOKEN, &text) == P11_KIT_URI_OK.rawValue,
            let text
        else { throw PKIError(.hardware, "p11-kit cannot write a URI") }
        defer { free(text) }
        return String(cString: text)
    }
}
