/// The commented configuration files that `init` writes.
enum InstallationTemplate {
    /// For the server: broker and control center.
    static func server(
        trustDomain: String, host: String, port: Int, controlCenter: String
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
          host: \(host)
          port: \(port)
          # The address it listens at.
          #listen: 0.0.0.0
          # A port without TLS, on loopback only, for tests. None unless set.
          #plaintext-port: 1883
          certificate: broker/broker.pem
          key: broker/broker.key
          # The folder in which sessions, queued and retained messages outlive the process; without it they end with it.
          store: broker
          # What an acknowledgement says of them: 'safe' that they are on disk, 'relaxed' that they soon will be.
          #durability: safe
          # Accept TLS 1.2 beside 1.3.
          #allow-tls12: false
          #max-connections: 10000
          # Bytes.
          #max-packet-size: 131072
          # Messages, and bytes of their payloads, that wait for one client.
          #max-queued-messages: 100000
          #max-queued-bytes: 67108864

        control-center:
          id: \(controlCenter)
          certificate: control-center/control-center.pem
          key: control-center/control-center.key
          # The SQLite database with everything that was verified.
          store: control-center/store.sqlite3
          # Threads that verify signatures; 0 is one a core.
          #workers: 0

        """
    }

    /// For one auditor's device.
    static func auditor(trustDomain: String, id: String, host: String, port: Int) -> String {
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
          key: auditor.key
          # The outbox. Never copy it to a second device.
          #state: state
          # 'simulated' is a home that does not exist; otherwise a CSV file.
          #source: simulated
          #meter: main
          # For CSV files that are plain time series: NAME=QUANTITY:UNIT, and the seconds that a record covers.
          #columns: [GC=consumption:kWh]
          #interval: 1800
          # IANA name or offset of the times in a CSV file.
          #time-zone: UTC
          # Replay so many times faster than measured; 0 is as fast as it goes.
          #speed: 0
          # Of the simulated home.
          #seed: 1
          # Seconds between statements.
          #statement-interval: 60
          # Statements that wait for their receipt before the meters are no longer read.
          #max-unsent: 1000000

        """
    }
}
