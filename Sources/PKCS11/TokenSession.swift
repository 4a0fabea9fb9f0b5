// PKCS #11 v3.1 (OASIS): the few calls that finding, making and using a key take.

import CP11Kit
import Crypto
import PKI
import Synchronization

/// A module that is loaded and initialised, until the last reference goes.
///
/// p11-kit gives each caller a list of functions of its own, so that several of these in one process, or another
/// library's, do not end each other's sessions. It fills every entry of that list; calling one is no unwrapping of
/// what might be missing.
private final class TokenModule {
    let functions: UnsafeMutablePointer<CK_FUNCTION_LIST>

    init(_ path: String) throws(PKIError) {
        guard !path.hasPrefix("/") || FileMark(path) != nil else {
            throw PKIError(.missing, "the PKCS#11 module \(path) does not exist: install it, or correct module-path")
        }
        guard let functions = p11_kit_module_load(path, 0) else {
            let reason = p11_kit_message().map { String(cString: $0) } ?? "no reason is given"
            throw PKIError(.hardware, "\(path) is no PKCS#11 module that can be loaded: \(reason)")
        }
        let result = p11_kit_module_initialize(functions)
        guard result == CKR_OK else {
            p11_kit_module_release(functions)
            throw PKIError(.hardware, "the PKCS#11 module \(path) does not start: \(TokenSession.words(result))")
        }
        self.functions = functions
    }

    deinit {
        p11_kit_module_finalize(self.functions)
        p11_kit_module_release(self.functions)
    }
}

/// A session with a token, logged in. Not for several threads at once.
final class TokenSession {
    /// A private key in the token, and the public one of it.
    struct Key {
        let handle: CK_OBJECT_HANDLE
        let publicKey: P256.Signing.PublicKey
        /// The token wants the PIN before each signature (CKA_ALWAYS_AUTHENTICATE).
        let wantsPIN: Bool
    }

    /// The longest attribute that is read, in bytes.
    private static let maximumAttribute = 1_024
    /// The most slots that are looked at.
    private static let maximumSlots: CK_ULONG = 1_024

    private let uri: TokenURI
    private let module: TokenModule
    private let slot: CK_SLOT_ID
    private let session: CK_SESSION_HANDLE

    /// Finds the token, and logs in if it wants that.
    ///
    /// - Parameter writing: whether something is to be made there.
    /// - Throws: `PKIError` with code `missing` without the module, `hardware` without the token or while its PIN is
    ///   locked, `passphrase` for a wrong PIN; those of its file.
    init(_ uri: TokenURI, writing: Bool = false) throws(PKIError) {
        let module = try TokenModule(uri.modulePath)
        let (slot, info) = try Self.find(uri, module)
        var session = CK_SESSION_HANDLE(CK_INVALID_HANDLE)
        let flags = CKF_SERIAL_SESSION | (writing ? CKF_RW_SESSION : 0)
        let opened = module.functions.pointee.C_OpenSession(slot, flags, nil, nil, &session)
        guard opened == CKR_OK else {
            throw PKIError(.hardware, "\(uri.name): the token opens no session: \(Self.words(opened))")
        }
        self.uri = uri
        self.module = module
        self.slot = slot
        self.session = session
        if info.flags & CKF_LOGIN_REQUIRED != 0 { try self.logIn() }
    }

    deinit { _ = self.module.functions.pointee.C_CloseSession(self.session) }

    static func words(_ result: CK_RV) -> String {
        p11_kit_strerror(result).map { String(cString: $0) } ?? "error \(result)"
    }

    private static func find(
        _ uri: TokenURI, _ module: TokenModule
    ) throws(PKIError) -> (slot: CK_SLOT_ID, info: CK_TOKEN_INFO) {
        let functions = module.functions
        var count: CK_ULONG = 0
        // The first call also lets the module look for tokens that came or went.
        var result = functions.pointee.C_GetSlotList(1, nil, &count)
        count = min(count, Self.maximumSlots)
        var slots = [CK_SLOT_ID](repeating: 0, count: Int(count))
        if result == CKR_OK, count > 0 { result = functions.pointee.C_GetSlotList(1, &slots, &count) }
        guard result == CKR_OK else {
            throw PKIError(.hardware, "\(uri.name): the module lists no tokens: \(Self.words(result))")
        }
        var found: [(slot: CK_SLOT_ID, info: CK_TOKEN_INFO)] = []
        for slot in slots.prefix(Int(count)) {
            var info = CK_TOKEN_INFO()
            // One that was taken away at this moment is none.
            guard functions.pointee.C_GetTokenInfo(slot, &info) == CKR_OK, info.flags & CKF_TOKEN_INITIALIZED != 0,
                try uri.matches(info)
            else { continue }
            found.append((slot, info))
        }
        guard let first = found.first else {
            throw PKIError(.hardware, "\(uri.name): there is no such token: is it plugged in, is its name right?")
        }
        guard found.count == 1 else {
            throw PKIError(.hardware, "\(uri.name): \(found.count) tokens answer to that: add serial=... to it")
        }
        return first
    }

    // MARK: The PIN

    private func logIn() throws(PKIError) {
        guard self.uri.pinFile != nil else {
            throw PKIError(.passphrase, "\(self.uri.name): the token wants a PIN: add pin-source=file:PATH to the URI")
        }
        try self.showPIN(as: CKU_USER)
    }

    private func requireTries(_ flags: CK_FLAGS) throws(PKIError) {
        // Tokens that are asked too often with a wrong PIN lock themselves, some for good.
        guard flags & CKF_USER_PIN_LOCKED == 0 else {
            throw PKIError(
                .hardware, "\(self.uri.name): the token's PIN is locked: its security officer can set another")
        }
        guard flags & CKF_USER_PIN_FINAL_TRY == 0 else {
            throw PKIError(
                .hardware,
                "\(self.uri.name): a wrong PIN once more locks the token, so it is not tried: log in once with another tool, such as pkcs11-tool --login"
            )
        }
    }

    /// PIN files that were refused, by token and file: in this process none is tried again as it is, because that locks
    /// tokens.
    private static let refusedPINs = Mutex<[String: FileMark]>([:])

    private func showPIN(as user: CK_USER_TYPE) throws(PKIError) {
        guard let path = self.uri.pinFile else { return }
        let (place, mark) = ("\(self.uri.modulePath) \(self.slot) \(path)", FileMark(path))
        guard mark == nil || Self.refusedPINs.withLock({ $0[place] }) != mark else {
            throw PKIError(
                .passphrase, "\(self.uri.name): the PIN was wrong, and is not tried again before its file changes")
        }
        var info = CK_TOKEN_INFO()
        if self.module.functions.pointee.C_GetTokenInfo(self.slot, &info) == CKR_OK {
            try self.requireTries(info.flags)
        }
        var pin = try Passphrase.read(path).bytes
        let result = self.module.functions.pointee.C_Login(self.session, user, &pin, CK_ULONG(pin.count))
        switch result {
        // Another session of this process was faster: a login is the process's.
        case CKR_OK, CKR_USER_ALREADY_LOGGED_IN: return
        case CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE:
            Self.refusedPINs.withLock { $0[place] = mark }
            throw PKIError(.passphrase, "\(self.uri.name): the PIN in \(path) is wrong")
        case CKR_PIN_LOCKED:
            throw PKIError(
                .hardware, "\(self.uri.name): the token's PIN is locked: its security officer can set another")
        default: throw PKIError(.hardware, "\(self.uri.name): no login: \(Self.words(result))")
        }
    }

    // MARK: Objects

    /// The private key that the URI names, and the public key beside it.
    ///
    /// - Returns: nil if there is none.
    /// - Throws: `PKIError` with code `weak-key` for one that is not P-256; `hardware` for two of that name, or
    ///   without a public key.
    func key() throws(PKIError) -> Key? {
        var template = Template()
        template.add(CKA_CLASS, CKO_PRIVATE_KEY)
        if let label = self.uri.label { template.add(CKA_LABEL, label) }
        if let id = self.uri.id { template.add(CKA_ID, id) }
        let found = try self.objects(template)
        guard let handle = found.first else { return nil }
        guard found.count == 1 else {
            throw PKIError(.hardware, "\(self.uri.name): two keys answer to that: add id=... to it")
        }
        let parameters = self.attribute(CKA_EC_PARAMS, of: handle)
        guard self.attribute(CKA_KEY_TYPE, of: handle) == bytes(of: CKK_EC),
            parameters == nil || parameters == TokenPublicKey.parameters
        else { throw PKIError(.weakKey, "\(self.uri.name) is not a P-256 key") }
        guard let point = try self.point(of: handle) else {
            throw PKIError(
                .hardware, "\(self.uri.name): the token has no public key to it: import that too, with the same ID")
        }
        return Key(
            handle: handle, publicKey: try TokenPublicKey.decode(point: point, name: self.uri.name),
            wantsPIN: self.attribute(CKA_ALWAYS_AUTHENTICATE, of: handle) == [1])
    }

    /// CKA_EC_POINT is the public object's; that one has the private key's ID. Some tokens have it in the private one.
    private func point(of handle: CK_OBJECT_HANDLE) throws(PKIError) -> [UInt8]? {
        if let point = self.attribute(CKA_EC_POINT, of: handle), !point.isEmpty { return point }
        for type in [CKA_ID, CKA_LABEL] {
            guard let value = self.attribute(type, of: handle), !value.isEmpty else { continue }
            var template = Template()
            template.add(CKA_CLASS, CKO_PUBLIC_KEY)
            template.add(type, value)
            let found = try self.objects(template)
            if found.count == 1, let point = self.attribute(CKA_EC_POINT, of: found[0]) { return point }
        }
        return nil
    }

    /// At most two.
    private func objects(_ template: Template) throws(PKIError) -> [CK_OBJECT_HANDLE] {
        let functions = self.module.functions
        let begun = template.withPointer { functions.pointee.C_FindObjectsInit(self.session, $0, $1) }
        guard begun == CKR_OK else { throw self.failure("cannot be searched", begun) }
        defer { _ = functions.pointee.C_FindObjectsFinal(self.session) }
        var handles = [CK_OBJECT_HANDLE](repeating: 0, count: 2)
        var count: CK_ULONG = 0
        let result = functions.pointee.C_FindObjects(self.session, &handles, CK_ULONG(handles.count), &count)
        guard result == CKR_OK else { throw self.failure("cannot be searched", result) }
        return Array(handles.prefix(Int(min(count, 2))))
    }

    /// - Returns: nil for one that the object does not have, does not show, or that is too long.
    private func attribute(_ type: CK_ATTRIBUTE_TYPE, of handle: CK_OBJECT_HANDLE) -> [UInt8]? {
        let functions = self.module.functions
        var attribute = CK_ATTRIBUTE(type: type, pValue: nil, ulValueLen: 0)
        guard functions.pointee.C_GetAttributeValue(self.session, handle, &attribute, 1) == CKR_OK,
            attribute.ulValueLen <= CK_ULONG(Self.maximumAttribute)
        else { return nil }
        var value = [UInt8](repeating: 0, count: Int(attribute.ulValueLen))
        let result = value.withUnsafeMutableBytes { buffer in
            attribute.pValue = buffer.baseAddress
            return functions.pointee.C_GetAttributeValue(self.session, handle, &attribute, 1)
        }
        guard result == CKR_OK, attribute.ulValueLen <= CK_ULONG(value.count) else { return nil }
        return Array(value.prefix(Int(attribute.ulValueLen)))
    }

    /// Makes a key pair in the token, which never gives the private one away.
    ///
    /// - Parameter id: the CKA_ID, unless the URI has one.
    func makeKey(id: [UInt8]) throws(PKIError) {
        var publicTemplate = Template()
        publicTemplate.add(CKA_TOKEN, true)
        publicTemplate.add(CKA_EC_PARAMS, TokenPublicKey.parameters)
        publicTemplate.add(CKA_VERIFY, true)
        var privateTemplate = Template()
        privateTemplate.add(CKA_TOKEN, true)
        privateTemplate.add(CKA_PRIVATE, true)
        privateTemplate.add(CKA_SENSITIVE, true)
        privateTemplate.add(CKA_EXTRACTABLE, false)
        privateTemplate.add(CKA_SIGN, true)
        for (type, value) in [(CKA_ID, self.uri.id ?? id), (CKA_LABEL, self.uri.label ?? [])] where !value.isEmpty {
            publicTemplate.add(type, value)
            privateTemplate.add(type, value)
        }
        var mechanism = CK_MECHANISM(mechanism: CKM_EC_KEY_PAIR_GEN, pParameter: nil, ulParameterLen: 0)
        var publicHandle = CK_OBJECT_HANDLE(CK_INVALID_HANDLE)
        var privateHandle = CK_OBJECT_HANDLE(CK_INVALID_HANDLE)
        let result = publicTemplate.withPointer { publicAttributes, publicCount in
            privateTemplate.withPointer { privateAttributes, privateCount in
                self.module.functions.pointee.C_GenerateKeyPair(
                    self.session, &mechanism, publicAttributes, publicCount, privateAttributes, privateCount,
                    &publicHandle, &privateHandle)
            }
        }
        guard result == CKR_OK else { throw self.failure("makes no key", result) }
    }

    /// CKM_ECDSA: over the leftmost 32 bytes of a digest, as r||s.
    func sign(_ digest: some Digest, with key: Key) throws(PKIError) -> P256.Signing.ECDSASignature {
        let functions = self.module.functions
        var mechanism = CK_MECHANISM(mechanism: CKM_ECDSA, pParameter: nil, ulParameterLen: 0)
        let begun = functions.pointee.C_SignInit(self.session, &mechanism, key.handle)
        guard begun == CKR_OK else { throw self.failure("does not sign", begun) }
        if key.wantsPIN { try self.showPIN(as: CKU_CONTEXT_SPECIFIC) }
        var data = Array(digest.prefix(32))
        var signature = [UInt8](repeating: 0, count: 64)
        var length = CK_ULONG(signature.count)
        let result = functions.pointee.C_Sign(self.session, &data, CK_ULONG(data.count), &signature, &length)
        guard result == CKR_OK else { throw self.failure("does not sign", result) }
        guard length == 64, let made = try? P256.Signing.ECDSASignature(rawRepresentation: signature) else {
            throw PKIError(.hardware, "\(self.uri.name): the token made no signature of P-256")
        }
        return made
    }

    private func failure(_ verb: String, _ result: CK_RV) -> PKIError {
        PKIError(.hardware, "\(self.uri.name): the token \(verb): \(Self.words(result))")
    }
}
