/// The commented configuration files that `init` writes.
enum InstallationTemplate {
    /// For the server: broker and control center.
    static func server(
        trustDomain: String, hosts: [String], port: Int, controlCenter: String, ca: String, publicURL: String?
    ) -> String {
        """
        # secure-mqtt: broker and control center of \(trustDomain).
        # Paths are relative to this file. Every key can also be set by an environment variable
        # (broker.port is SECURE_MQTT_BROKER_PORT) or a flag (--set broker.port=8884).
        # Lines with a '#' before a key show its default.

        trust:
          domain: \(trustDomain)
          root: pki/root.pem
          intermediates: pki/issuing.pem
          revocation-lists: pki/crl.pem
          # Refuse everyone whose issuer's revocation list is late, instead of using the last known one.
          #require-current-lists: false

        broker:
          # How auditors and the control center reach it: a name or address in its certificate.
          host: \(hosts.first ?? "localhost")
          port: \(port)
          # The address it listens at.
          #listen: 0.0.0.0
          # A port without TLS, on loopback only, for tests. None unless set.
          #plaintext-port: 1883
          certificate: broker/broker.pem
          # A file of mode 0600, here and in the other sections; or a key in a token: 'pkcs11:...', see docs/pki.md.
          key: broker/broker.key
          # The folder in which sessions, queued and retained messages outlive the process; without it they end with it.
          store: broker
          # What an acknowledgement says of them: 'safe' that they are on disk, 'relaxed' that they soon will be.
          #durability: safe
          # Accept TLS 1.2 beside 1.3.
          #allow-tls12: false
          # MQTT over WebSocket with TLS, at the same address. None unless set. Web pages may connect only if their
          # origin is listed: a browser presents its user's certificate on behalf of any page.
          #websocket-port: 8443
          #websocket-path: /mqtt
          #websocket-origins: [https://console.example.org]
          # A Unix socket for tools on this machine, such as secure-mqtt broker status. None unless set.
          #socket: broker/broker.sock
          # 0600, or 0660 for the broker's group too.
          #socket-mode: 0600
          # Which operator a user (by number) is there. Else the broker's own user and root are the operator 'local'.
          #socket-operators: [1000=mona]
          # Load balancers that send a PROXY header, version 2. From elsewhere it is not believed.
          #balancers: [10.0.0.0/8]
          # One for the sessions, the others for TLS and sockets; 1: all on one; 0: what suits this machine.
          #threads: 0
          #max-connections: 10000
          # Of one address (IPv6: one /64) and of one identity: at once, and new ones a second. Rates of 0: any.
          #max-connections-per-address: 4096
          #connection-rate-per-address: 200
          #max-connections-per-identity: 64
          #connection-rate-per-identity: 20
          # Sessions of one identity, connected or not.
          #max-sessions-per-identity: 16
          # Packets and bytes a second of one connection: who sends more is read more slowly. 0: any.
          #max-packet-rate: 0
          #max-byte-rate: 0
          # Seconds from accepting a connection to its CONNECT, and the longest keep-alive.
          #connect-deadline: 10
          #max-keep-alive: 3600
          # Bytes.
          #max-packet-size: 131072
          # Messages that wait for one client, and their bytes (topic, properties, payload, 64 each); bytes for all clients.
          #max-queued-messages: 100000
          #max-queued-bytes: 67108864
          #max-total-queued-bytes: 1073741824
          # Bytes that a client has not taken before it counts as slow.
          #slow-consumer-bytes: 262144

        control-center:
          id: \(controlCenter)
          certificate: control-center/control-center.pem
          key: control-center/control-center.key
          # The SQLite database with everything that was verified.
          store: store/store.sqlite3
          # The authority (secure-mqtt ca), if one runs: what it issues and revokes is kept in the database too.
          #authority: https://\(hosts.first.map { $0.contains(":") ? "[\($0)]" : $0 } ?? "localhost"):8443
          # Threads that verify signatures; 0 is one a core.
          #workers: 0

        # Only for devices and a database client of the original LiCore system: see docs/licore.md.
        #licore:
          # Who may use the original's format; secure-mqtt fleet allow writes it. Nobody may while it is not there.
          #fleet: fleet.json
          # In whose name secure-mqtt fleet update signs, if not the control center's, and the key of that name.
          #controller: database_licore
          #controller-key: database_licore.key

        # The certificate authority, a process of its own: secure-mqtt ca
        ca:
          id: \(ca)
          directory: pki
          # Names and addresses under which devices and operators reach it.
          hosts: [\(hosts.map { "\"\($0)\"" }.joined(separator: ", "))]
          #listen: 0.0.0.0
          #port: 8443
          # A port of plain HTTP for revocation lists and OCSP; none unless set.
          #public-port: 8080
          # Where others find them; certificates that are issued from then on say so.
          \(publicURL.map { "public-url: \($0)" } ?? "#public-url: http://ca.example.org:8080")
          # The passphrase of the issuing key, in a file of mode 0600. Else it is
          # $CREDENTIALS_DIRECTORY/ca-passphrase (systemd), or asked for on the terminal.
          #passphrase-file: /etc/secure-mqtt/ca-passphrase
          # With Mosquitto on this machine: the folder of pki export-mosquitto. It is told of revocations.
          #mosquitto: /etc/mosquitto/energy
          # Connections at once, in all and of one address (IPv6: one /64).
          #max-connections: 1024
          #max-connections-per-address: 128
          # Seconds.
          #invitation-lifetime: 259200

        # When people are told of something (secure-mqtt alerts), and how. Times are 90s, 35m, 12h, 14d.
        #alerts:
          # Nothing of an auditor for so long; its heartbeat comes every 15 minutes.
          #no-data-after: 35m
          #ranges: [voltage=195..255, frequency=47.5..52.5]
          # Production between these times is suspicious; never unless set.
          #night: 22:00-04:00
          #utc-offset: +00:00
          # A consumption so many times the usual one; 0 for never.
          #jump-factor: 8
          # Messages that are missing for so long.
          #gap-after: 10m
          #certificate-within: 14d
          #clock-off: 2m
          #outbox-count: 10000
          #refusals-per-minute: 60
          # What is over must stay so for so long.
          #clear-after: 5m
          # As signed alerts on control_center/alerts/<ID>.
          #publish: false
          # As a POST of JSON, signed with the secret in a file.
          #webhook: https://example.org/hook
          #webhook-secret: webhook.secret
          # As mail; security is starttls, tls or none.
          #mail-host: mail.example.org
          #mail-port: 587
          #mail-security: starttls
          #mail-roots: mail-roots.pem
          #mail-user: energy
          #mail-password: mail.password
          #mail-from: energy@example.org
          #mail-to: [ops@example.org]

        """
    }

    /// For one auditor's device.
    ///
    /// - Parameters:
    ///   - authority: who renews the certificate; nil if nobody does by itself.
    ///   - meter: the name of its meter; nil for the default.
    static func auditor(
        trustDomain: String, id: String, host: String, port: Int, authority: String? = nil, meter: String? = nil
    ) -> String {
        """
        # secure-mqtt: auditor \(id) of \(trustDomain).
        # Paths are relative to this file. Every key can also be set by an environment variable
        # (auditor.source is SECURE_MQTT_AUDITOR_SOURCE) or a flag (--set auditor.source=readings.csv).
        # Lines with a '#' before a key show its default.

        trust:
          domain: \(trustDomain)
          root: root.pem
          intermediates: issuing.pem
          revocation-lists: crl.pem

        broker:
          host: \(host)
          port: \(port)

        auditor:
          id: \(id)
          certificate: auditor.pem
          # A file of mode 0600, or a key in a token (TPM, smart card), here or in the file, see docs/pki.md:
          # 'pkcs11:token=home;object=mona?module-path=/usr/lib/.../module.so&pin-source=file:pin'
          key: auditor.key
          # Who renews the certificate, in time and by itself; nobody unless set.
          \(authority.map { "authority: \($0)" } ?? "#authority: https://ca.example.org:8443")
          # Keep the key when the certificate is renewed, instead of making a new one. One in a token is always kept.
          #keep-key: false
          # The outbox. Never copy it to a second device.
          #state: state
          # 'simulated' is a home that does not exist; otherwise a CSV file.
          #source: simulated
          \(meter.map { "meter: \($0)" } ?? "#meter: main")
          # For CSV files that are plain time series: NAME=QUANTITY:UNIT, and the seconds that a record covers.
          #columns: [GC=consumption:kWh]
          #interval: 1800
          # IANA name or offset of the times in a CSV file.
          #time-zone: UTC
          # Replay so many times faster than measured; 0 is a file as fast as it goes, and a simulated home as it happens.
          #speed: 0
          # Of the simulated home.
          #seed: 1
          # Seconds between statements.
          #statement-interval: 60
          # Statements that wait for their receipt before the meters are no longer read.
          #max-unsent: 1000000
          # 'licore' writes the original's text, for the original's database client: see docs/licore.md.
          #format: cose
          # With it: whose updates to obey, and the certificate.
          #controller: database_licore
          #controller-certificate: database_licore.crt

        """
    }
}
