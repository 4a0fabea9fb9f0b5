public import Identity
public import LiCore

/// What a Mosquitto 2.0 needs to stand in for the embedded broker: its configuration file, and the topic
/// table as an access control list.
///
/// The settings are those with which no acknowledged message was lost in trials; the defaults drop messages
/// beyond 1,000 queued. Mosquitto knows a client by its common name only, not by its role: so the control
/// centers, operators and brokers are listed here, and every other certificate has an auditor's rights. That
/// is why the authority gives a name out once over all roles. `use_username_as_clientid` gives each name one
/// session, so that nobody takes another's by its client identifier.
public struct MosquittoConfiguration: Sendable {
    /// Where the files of the TLS side are, as absolute paths.
    public struct Files: Sendable {
        /// Roots, PEM.
        public var certificateAuthorities: String
        /// The broker's certificate and the intermediate behind it, PEM.
        public var certificateChain: String
        /// Its private key, PEM.
        public var privateKey: String
        /// The revocation lists of root and intermediate, PEM. Mosquitto reads them at start and at SIGHUP.
        public var revocationLists: String
        /// Where the access control list is written to.
        public var accessControlList: String
        /// A folder for the sessions; must exist and belong to Mosquitto's user.
        public var persistenceDirectory: String

        public init(
            certificateAuthorities: String, certificateChain: String, privateKey: String, revocationLists: String,
            accessControlList: String, persistenceDirectory: String
        ) {
            self.certificateAuthorities = certificateAuthorities
            self.certificateChain = certificateChain
            self.privateKey = privateKey
            self.revocationLists = revocationLists
            self.accessControlList = accessControlList
            self.persistenceDirectory = persistenceDirectory
        }
    }

    /// A second listener, for the original's clients alone. Mosquitto knows a client by its common name and an
    /// authority only: whoever had the original authority's key could otherwise take any name at all, the control
    /// center's among them. Behind this listener there are no rights but those of the fleet.
    public struct LiCoreListener: Sendable {
        /// 1...65,535.
        public var port: Int
        /// The original's authority, PEM.
        public var certificateAuthority: String
        /// Where the listener's access control list is written to.
        public var accessControlList: String

        public init(port: Int, certificateAuthority: String, accessControlList: String) {
            self.port = port
            self.certificateAuthority = certificateAuthority
            self.accessControlList = accessControlList
        }
    }

    public var files: Files
    /// 1...65,535.
    public var port: Int
    /// The address to listen on; `nil` for all.
    public var host: String?
    public var controlCenters: [Identifier]
    public var operators: [Identifier]
    /// A broker's certificate opens no session.
    public var brokers: [Identifier]
    /// Those who still use the original's format.
    public var fleet = Fleet.none
    /// A listener of their own for those of the fleet whose certificates are not our authority's; `nil` for none.
    public var licoreListener: LiCoreListener?
    /// Which certificates of the fleet are our authority's.
    public var trustDomain: TrustDomain?
    /// The user that Mosquitto changes to when it is started as root; `nil` leaves its default.
    public var user: String?

    public init(
        files: Files, port: Int = 8_883, host: String? = nil, controlCenters: [Identifier],
        operators: [Identifier] = [],
        brokers: [Identifier] = [], user: String? = nil
    ) {
        self.files = files
        self.port = port
        self.host = host
        self.controlCenters = controlCenters
        self.operators = operators
        self.brokers = brokers
        self.user = user
    }

    /// The contents of `mosquitto.conf`.
    public var configurationText: String {
        var lines = [
            "# Mosquitto 2.0 for secure-mqtt. Generated: your own changes are lost when it is exported again.",
            "per_listener_settings \(self.licoreListener != nil)",
            "listener \(self.port)" + (self.host.map { " \($0)" } ?? ""),
            "",
            "# Mutual TLS 1.3; the certificate's common name is the user name and the client identifier.",
            "cafile \(self.files.certificateAuthorities)",
            "certfile \(self.files.certificateChain)",
            "keyfile \(self.files.privateKey)",
            "crlfile \(self.files.revocationLists)",
            "require_certificate true",
            "tls_version tlsv1.3",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            "acl_file \(self.files.accessControlList)",
            "",
            "# No acknowledged message may be dropped while a client is away.",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "max_queued_bytes 268435456",
            "persistence true",
            "persistence_location \(self.files.persistenceDirectory)/",
            "autosave_interval 60",
            "persistent_client_expiration 14d",
            "",
            "max_packet_size 131072",
            "set_tcp_nodelay true",
            "log_dest stderr",
        ]
        if let user = self.user { lines.append("user \(user)") }
        if let licore = self.licoreListener { lines += self.lines(of: licore) }
        return lines.joined(separator: "\n") + "\n"
    }

    /// The listener's own authority and rights. Its clients' sessions are named after their certificates, so that a client
    /// takes another's only if the old authority gives it that name. No revocation list: the fleet file is what ends a pin.
    private func lines(of licore: LiCoreListener) -> [String] {
        [
            "", "# The original's clients: their own authority, and no rights but those of the fleet.",
            "listener \(licore.port)" + (self.host.map { " \($0)" } ?? ""),
            "cafile \(licore.certificateAuthority)",
            "certfile \(self.files.certificateChain)",
            "keyfile \(self.files.privateKey)",
            "require_certificate true",
            "tls_version tlsv1.2",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            "acl_file \(licore.accessControlList)",
        ]
    }

    private func isOurs(_ member: FleetMember) -> Bool {
        self.trustDomain.map { member.isOurs(in: $0) } ?? false
    }

    /// The contents of the access control list of the listener for the original's clients.
    public var licoreAccessControlText: String {
        var lines = ["# The fleet of secure-mqtt. Generated: your own changes are lost when it is exported again."]
        for member in self.fleet.members where !self.isOurs(member) {
            lines += ["", "user \(member.id)"] + self.rights(member)
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private func rights(_ member: FleetMember) -> [String] {
        switch member.kind {
        case .auditor:
            return ["topic write audits/measures/\(member.id)", "topic read control_center/updates/\(member.id)/#"]
        case .databaseClient:
            // It dies on what is not its text: only the topics of those who write it.
            let auditors = self.fleet.members.filter { $0.kind == .auditor }
            return auditors.map { "topic read audits/measures/\($0.id)" }
                + auditors.filter { $0.controller == member.id }.map {
                    "topic write control_center/updates/\($0.id)/\(member.id)/+"
                }
        }
    }

    /// The contents of the access control list.
    public var accessControlText: String {
        var lines = [
            "# The topic table of secure-mqtt. Generated: your own changes are lost when it is exported again."
        ]
        // What a pattern below grants to everybody is first taken from those who are no auditors.
        for id in self.brokers {
            lines += ["", "user \(id)", "topic deny #"]
        }
        for id in self.controlCenters {
            lines += ["", "user \(id)"] + Self.noAuditor(id)
            lines += [
                "topic read audits/#",
                "topic write control_center/receipts/+",
                "topic write control_center/updates/+/\(id)/+",
                "topic write control_center/alerts/+",
                "topic write control_center/keys",
                "topic write control_center/crl",
                "topic write control_center/checkpoint",
            ]
            lines += self.fleet.members.compactMap { member in
                member.controller.flatMap { controller in
                    controller == id ? nil : "topic write control_center/updates/\(member.id)/\(controller)/+"
                }
            }
        }
        for id in self.operators {
            lines += ["", "user \(id)"] + Self.noAuditor(id) + ["topic read audits/#", "topic read control_center/#"]
        }
        for member in self.fleet.members {
            lines += ["", "user \(member.id)"]
            if !self.isOurs(member) {
                // It comes by the other listener: here its name may only be that of the auditor which replaces it.
                lines.append("topic deny audits/measures/\(member.id)")
            } else if member.kind == .databaseClient {
                lines += Self.noAuditor(member.id) + self.rights(member)
            } else {
                lines.append("topic deny audits/hello/\(member.id)")
            }
        }
        lines += [
            "", "# Auditors: everybody else.",
            "pattern write audits/hello/%u",
            "pattern write audits/measures/%u",
            "pattern write audits/alerts/%u",
            "pattern read control_center/receipts/%u",
            "pattern read control_center/updates/%u/#",
            "pattern read control_center/alerts/%u",
            "pattern read control_center/alerts/all",
            "pattern read control_center/keys",
            "pattern read control_center/crl",
            "pattern read control_center/checkpoint",
        ]
        return lines.joined(separator: "\n") + "\n"
    }

    private static func noAuditor(_ id: Identifier) -> [String] {
        ["hello", "measures", "alerts"].map { "topic deny audits/\($0)/\(id)" }
    }
}
