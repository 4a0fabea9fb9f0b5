import CertificateAuthority
import Foundation
import NIOCore
import NIOPosix
import PKI
import TestSupport
import Testing

/// A connection of bytes, which says what it wants and when.
private enum RawClient {
    /// Runs `body` with a connection to a port of 127.0.0.1.
    static func with<Result: Sendable>(
        _ port: Int,
        _ body:
            @Sendable (NIOAsyncChannelOutboundWriter<ByteBuffer>, NIOAsyncChannelInboundStream<ByteBuffer>) async throws
            -> Result
    ) async throws -> Result {
        let channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .connect(host: "127.0.0.1", port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
        return try await channel.executeThenClose { inbound, outbound in try await body(outbound, inbound) }
    }

    /// All that comes until the other side closes. A reset is an end too.
    static func rest(_ inbound: NIOAsyncChannelInboundStream<ByteBuffer>) async -> String {
        var text = ""
        do {
            for try await bytes in inbound { text += String(buffer: bytes) }
        } catch {}
        return text
    }
}

/// The authority under load, and under those who waste its time.
@Suite(.enabled(if: ChildProcess.find("curl") != nil, "curl is not installed"))
struct LimitTests {
    /// What a slow-loris does.
    enum Loris: String, CaseIterable, Sendable {
        case nothing, handshake, head, body, idle

        var isTLS: Bool { self == .nothing || self == .handshake }
    }

    @Test("Who is slow to say what it wants is disconnected, whatever it trickles in", arguments: Loris.allCases)
    func slowLoris(_ loris: Loris) async throws {
        var limits = AuthorityLimits()
        (limits.headDeadline, limits.bodyDeadline) = (1, 1)
        try await withAuthority(limits: limits) { ca in
            let port = loris.isTLS ? ca.ports.https : ca.ports.http ?? 0
            let answer = try await withDeadline(.seconds(30), "the connection ends") {
                try await RawClient.with(port) { outbound, inbound in
                    await withThrowingTaskGroup(of: Void.self) { group in
                        group.addTask {
                            let (begin, drip) =
                                switch loris {
                                case .nothing: ("", "")
                                case .handshake: ("\u{16}\u{03}\u{01}\u{02}\u{00}", "\u{01}")
                                case .head: ("GET /crl/root.crl HTTP/1.1\r\nHost: a\r\nX: ", "x")
                                case .body:
                                    ("POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n", "x")
                                case .idle: ("GET /crl/other.crl HTTP/1.1\r\nHost: a\r\n\r\n", "")
                                }
                            if !begin.isEmpty { try await outbound.write(ByteBuffer(string: begin)) }
                            while !drip.isEmpty {
                                try await Task.sleep(for: .milliseconds(50))
                                try await outbound.write(ByteBuffer(string: drip))
                            }
                        }
                        let answer = await RawClient.rest(inbound)
                        group.cancelAll()
                        // That it cannot write any more is what is wanted.
                        while let result = await group.nextResult() { _ = result }
                        return answer
                    }
                }
            }
            #expect(answer.hasPrefix("HTTP/1.1 404") == (loris == .idle), "\(answer)")
            // And all others are served.
            #expect(try await ca.curl(["\(ca.publicBase)/crl/root.crl"]).status == 200)
        }
    }

    @Test("Slow connections take no more than the bound; others are closed unheard until there is room again")
    func many() async throws {
        var limits = AuthorityLimits()
        (limits.connections, limits.connectionsPerAddress, limits.headDeadline) = (200, 200, 600)
        try await withAuthority(limits: limits) { ca in
            try await withThrowingTaskGroup(of: String.self) { group in
                let (opened, continuation) = AsyncStream<Void>.makeStream()
                // Twenty more than there is room for: one that curl has taken a place from does not come back.
                for _ in 0..<220 {
                    group.addTask {
                        try await RawClient.with(ca.ports.https) { _, inbound in
                            continuation.yield()
                            return await RawClient.rest(inbound)
                        }
                    }
                }
                try await withDeadline(.seconds(30), "all are connected") {
                    var count = 0
                    for await _ in opened {
                        count += 1
                        if count == 220 { return }
                    }
                }
                // Some may still be in the queue of the system: until they are in, there is room.
                try await withDeadline(.seconds(30), "there is no room") {
                    while (try? await ca.curl(["\(ca.base)/installation"]))?.status == 200 {}
                }
                // When the slow ones have gone, there is.
                group.cancelAll()
                try await withDeadline(.seconds(60), "there is room") {
                    while (try? await ca.curl(["\(ca.base)/installation"]))?.status != 200 {
                        try await Task.sleep(for: .milliseconds(50))
                    }
                }
                while let answer = await group.nextResult() { #expect((try? answer.get())?.isEmpty ?? true) }
            }
        }
    }

    @Test("One address has no more than its share, and gets it back")
    func perAddress() async throws {
        var limits = AuthorityLimits()
        limits.connectionsPerAddress = 1
        try await withAuthority(limits: limits) { ca in
            let port = ca.ports.http ?? 0
            try await RawClient.with(port) { outbound, inbound in
                try await outbound.write(ByteBuffer(string: "GET /crl/root.crl HTTP/1.1\r\nHost: a\r\n\r\n"))
                var iterator = inbound.makeAsyncIterator()
                #expect(try await iterator.next().map { String(buffer: $0).hasPrefix("HTTP/1.1 200") } == true)
                let second = try await withDeadline(.seconds(30), "the second is closed") {
                    try await RawClient.with(port) { _, inbound in await RawClient.rest(inbound) }
                }
                #expect(second.isEmpty)
            }
            try await withDeadline(.seconds(30), "the first is gone") {
                while (try? await ca.curl(["\(ca.publicBase)/crl/root.crl"]))?.status != 200 {
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
        }
    }

    @Test("Many requests over one connection, one with a body that nobody wanted, all within their time")
    func keepAlive() async throws {
        var limits = AuthorityLimits()
        (limits.headDeadline, limits.bodyDeadline) = (20, 20)
        try await withAuthority(limits: limits) { ca in
            try await RawClient.with(ca.ports.http ?? 0) { outbound, inbound in
                let one = "GET /crl/none.crl HTTP/1.1\r\nHost: a\r\n\r\n"
                let unwanted = "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde"
                let last = "GET /crl/none.crl HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                try await outbound.write(ByteBuffer(string: one + one + unwanted + one + last))
                let text = try await withDeadline(.seconds(30), "all are answered") { await RawClient.rest(inbound) }
                #expect(text.components(separatedBy: "HTTP/1.1 404").count == 6, "\(text)")
            }
        }
    }
}
