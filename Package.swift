// swift-tools-version: 6.2

import Foundation
import PackageDescription

let nio = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioTLS = Target.Dependency.product(name: "NIOTLS", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioWebSocket = Target.Dependency.product(name: "NIOWebSocket", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let cryptoExtras = Target.Dependency.product(name: "CryptoExtras", package: "swift-crypto")
let x509 = Target.Dependency.product(name: "X509", package: "swift-certificates")
let asn1 = Target.Dependency.product(name: "SwiftASN1", package: "swift-asn1")
let grdb = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")
let grdbSQLite = Target.Dependency.product(name: "GRDBSQLite", package: "GRDB.swift")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let lifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let lifecycleTestKit = Target.Dependency.product(name: "ServiceLifecycleTestKit", package: "swift-service-lifecycle")
let unixSignals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let configuration = Target.Dependency.product(name: "Configuration", package: "swift-configuration")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let hummingbirdTLS = Target.Dependency.product(name: "HummingbirdTLS", package: "hummingbird")
let httpClient = Target.Dependency.product(name: "AsyncHTTPClient", package: "async-http-client")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "secure-mqtt",
    platforms: [.macOS(.v26)],
    products: [
        .executable(name: "secure-mqtt", targets: ["SecureMQTT"]),
        .library(name: "MQTT", targets: ["MQTT"]),
        .library(name: "MQTTClient", targets: ["MQTTClient"]),
        .library(name: "MQTTClientSQLite", targets: ["MQTTClientSQLite"]),
        .library(name: "MQTTBroker", targets: ["MQTTBroker", "Connections"]),
        .library(name: "COSE", targets: ["COSE"]),
        .library(name: "Identity", targets: ["Identity"]),
        .library(name: "PKI", targets: ["PKI"]),
        .library(name: "Telemetry", targets: ["Telemetry"]),
        .library(name: "LiCore", targets: ["LiCore"]),
        .library(name: "Auditor", targets: ["Auditor"]),
        .library(name: "Enrolment", targets: ["Enrolment"]),
        .library(name: "ControlCenter", targets: ["ControlCenter"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-certificates", from: "1.21.1"),
        .package(url: "https://github.com/apple/swift-asn1", from: "1.7.4"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(
            url: "https://github.com/apple/swift-configuration", from: "1.4.0",
            traits: ["YAML"]),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(
            url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1", traits: []),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
    ],
    targets: [
        // Names of parties: no dependency at all.
        .target(name: "Identity"),

        // MQTT 3.1.1 and 5.0 as values: no I/O.
        .target(name: "MQTT", dependencies: [nio]),

        // What all that keep state in SQLite share: the lock of a state directory, statements bound by hand.
        .target(name: "Storage", dependencies: [grdb, grdbSQLite]),

        // How many connections there may be, and how fast they may come, as values.
        .target(name: "Connections"),

        // What a program needs of any message transport: deliver, publish, settle.
        .target(name: "MessageBus", dependencies: ["Identity", "MQTT", nio]),
        .target(
            name: "MQTTClient",
            dependencies: [
                "MQTT", "MessageBus", nio, nioPosix, nioTLS, nioSSL, nioHTTP1, nioWebSocket, logging, lifecycle,
                deque,
            ]),
        // Where an MQTT client's session survives its process.
        .target(name: "MQTTClientSQLite", dependencies: ["MQTT", "MQTTClient", grdb, nio]),
        .target(
            name: "MQTTBroker",
            dependencies: [
                "Connections", "Identity", "MQTT", "MessageBus", "PKI", "Storage", "Telemetry", "LiCore",
                nio, nioPosix, nioTLS, nioSSL, nioHTTP1, nioWebSocket, grdb, logging, lifecycle, deque,
            ]),

        // Deterministic CBOR (RFC 8949) and COSE_Sign1 (RFC 9052): no I/O.
        .target(name: "COSE", dependencies: [crypto]),

        // X.509 profiles, the authority, revocation lists, verification of identities.
        .target(name: "PKI", dependencies: ["Identity", crypto, cryptoExtras, x509, asn1]),

        // Private keys in tokens: PKCS #11, through p11-kit.
        .systemLibrary(
            name: "CP11Kit", pkgConfig: "p11-kit-1", providers: [.apt(["libp11-kit-dev"]), .brew(["p11-kit"])]),
        .target(name: "PKCS11", dependencies: ["PKI", "CP11Kit", crypto]),

        // The same keys and certificates for TLS.
        .target(name: "PKITLS", dependencies: ["PKI", crypto, x509, logging, nio, nioPosix, nioSSL]),

        // The authority's process: enrolment (EST), revocation lists and OCSP over HTTP, issuance.
        .target(
            name: "CertificateAuthority",
            dependencies: [
                "Connections", "Enrolment", "Identity", "PKI", "PKITLS", crypto, x509, logging, lifecycle, nio,
                nioPosix,
                nioHTTP1, nioSSL, hummingbird, hummingbirdTLS, httpClient,
            ]),

        // The words of our domain: readings, statements, receipts, topics: no I/O.
        .target(name: "Telemetry", dependencies: ["Identity", "COSE", crypto]),

        // The original system's text format (BLAKE2b, RFC 7693), and who may still use it.
        .target(name: "LiCore", dependencies: ["Identity", "Telemetry", "PKI", crypto, x509, asn1]),

        .target(
            name: "Auditor",
            dependencies: [
                "Identity", "MQTT", "Telemetry", "LiCore", "MessageBus", "PKI", "Storage",
                crypto, x509, grdb, logging, lifecycle, deque, nio,
            ]),
        .target(
            name: "ControlCenter",
            dependencies: [
                "Identity", "COSE", "Telemetry", "LiCore", "MessageBus", "MQTT", "PKI", "Storage",
                crypto, x509, grdb, logging, lifecycle, deque, nio, nioPosix, nioHTTP1, nioSSL, httpClient,
            ]),
        // A device's side of enrolment (EST, RFC 7030): joining and renewing.
        .target(
            name: "Enrolment",
            dependencies: ["Identity", "PKI", "PKITLS", crypto, x509, asn1, nio, nioHTTP1, nioSSL, httpClient]),
        .executableTarget(
            name: "SecureMQTT",
            dependencies: [
                "Connections", "Identity", "MQTT", "MessageBus", "MQTTClient", "MQTTBroker", "PKI", "PKCS11", "PKITLS",
                "Telemetry",
                "LiCore", "Auditor", "CertificateAuthority", "ControlCenter", "Enrolment",
                argumentParser, configuration, grdb, logging, lifecycle, unixSignals, nio, nioPosix, nioSSL, crypto,
                x509, asn1,
            ]),

        // What a program does with the MQTT client, each in a screenful.
        .executableTarget(
            name: "mqtt-example",
            dependencies: ["MQTT", "MQTTClient", "MQTTClientSQLite", "MessageBus", argumentParser, logging, nio],
            path: "Examples"),

        // Mutation fuzzing of every decoder: short in the tests, long by `make fuzz`.
        .target(
            name: "FuzzTargets",
            dependencies: [
                "Identity", "MQTT", "MQTTClient", "MQTTBroker", "COSE", "Telemetry", "LiCore", "Auditor", "Enrolment",
                "PKI", "PKCS11", crypto, nio, x509, asn1,
            ],
            path: "Fuzz/FuzzTargets"),
        .executableTarget(name: "fuzz", dependencies: ["FuzzTargets"], path: "Fuzz/fuzz"),

        // What several test targets share: temporary folders, processes, a test PKI.
        .target(
            name: "TestSupport",
            dependencies: ["Identity", "PKI", x509],
            path: "Tests/TestSupport"),
        .testTarget(name: "IdentityTests", dependencies: ["Identity"]),
        .testTarget(name: "MQTTTests", dependencies: ["MQTT", "FuzzTargets", nio]),
        .testTarget(
            name: "MQTTClientTests",
            dependencies: [
                "MQTTClient", "MQTTClientSQLite", "MQTT", "MessageBus", "TestSupport", "FuzzTargets", "mqtt-example",
                nio, nioPosix, nioSSL, nioHTTP1, nioWebSocket, logging,
            ]),
        .testTarget(
            name: "MQTTBrokerTests",
            dependencies: [
                "MQTTBroker", "MQTTClient", "MQTT", "MessageBus", "Connections", "Identity", "LiCore", "PKI",
                "Telemetry",
                "TestSupport", "FuzzTargets", nio, nioPosix, nioSSL, nioHTTP1, grdb, logging,
            ]),
        .testTarget(name: "COSETests", dependencies: ["COSE", "TestSupport", "FuzzTargets", crypto]),
        .testTarget(
            name: "PKITests", dependencies: ["PKI", "Identity", "TestSupport", "FuzzTargets", crypto, x509, asn1]),
        .testTarget(
            name: "PKCS11Tests",
            dependencies: [
                "PKCS11", "PKITLS", "PKI", "Identity", "TestSupport", "FuzzTargets", crypto, x509, nio, nioPosix,
                nioSSL, nioTLS,
            ]),
        .testTarget(
            name: "CertificateAuthorityTests",
            dependencies: [
                "CertificateAuthority", "Enrolment", "PKI", "Identity", "TestSupport", x509, logging, nio, nioHTTP1,
            ]),
        .testTarget(
            name: "EnrolmentTests",
            dependencies: [
                "Enrolment", "PKI", "Identity", "TestSupport", "FuzzTargets", crypto, x509,
            ]),
        .testTarget(
            name: "TelemetryTests",
            dependencies: ["Telemetry", "COSE", "Identity", "TestSupport", "FuzzTargets", crypto]),
        .testTarget(
            name: "LiCoreTests",
            dependencies: ["LiCore", "Telemetry", "Identity", "PKI", "TestSupport", "FuzzTargets", crypto, x509]),
        .testTarget(
            name: "AuditorTests",
            dependencies: [
                "Auditor", "Identity", "Telemetry", "MQTT", "MessageBus", "PKI", "TestSupport", "FuzzTargets",
                crypto, x509, grdb, logging, nio,
            ]),
        .testTarget(
            name: "ControlCenterTests",
            dependencies: [
                "ControlCenter", "LiCore", "Telemetry", "COSE", "Identity", "MessageBus", "MQTT", "PKI", "TestSupport",
                crypto, x509, grdb, logging, lifecycle, nio,
            ]),
        .testTarget(
            name: "Simulation",
            dependencies: ["Auditor", "ControlCenter", "Telemetry", "COSE", "Identity", "PKI", "TestSupport", crypto],
            path: "Tests/Simulation"),
        .testTarget(
            name: "SecureMQTTTests",
            dependencies: [
                "SecureMQTT", "TestSupport", "Identity", "MQTT", "MessageBus", "MQTTClient", "Telemetry", "PKI",
                "Auditor", crypto, x509, grdb, nio, nioPosix,
            ],
            exclude: ["Support"]),
    ],
    swiftLanguageModes: [.v6]
)

// Settings common to every target.
let warningsAreErrors = ProcessInfo.processInfo.environment["CI"] == "true"
for target in package.targets where target.type != .plugin && target.type != .system {
    var settings = target.swiftSettings ?? []
    settings += [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    ]
    if warningsAreErrors {
        settings.append(.treatAllWarnings(as: .error))
    }
    target.swiftSettings = settings
}
