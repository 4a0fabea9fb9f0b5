import Connections
import MQTTBroker
import NIOCore
import NIOHTTP1
import TestSupport
import Testing

/// Limits, addresses and headers as values: no sockets, no clock.
struct TransportValueTests {
    private static let second: UInt64 = 1_000_000_000

    // MARK: Rates

    @Test("A bucket gives its burst at once and then its rate")
    func bucket() {
        let rate = Rate(perSecond: 10, burst: 3)
        var bucket = TokenBucket(rate, at: 0)
        let first = (0..<5).map { _ in bucket.take(of: rate, at: 0) }
        #expect(first == [true, true, true, false, false])
        #expect(bucket.take(of: rate, at: Self.second / 20) == false)
        #expect(bucket.take(of: rate, at: Self.second / 10) == true)
        // A long pause earns the burst and no more.
        let later = (0..<5).map { _ in bucket.take(of: rate, at: 100 * Self.second) }
        #expect(later == [true, true, true, false, false])
        #expect(!bucket.isFull(rate, at: 100 * Self.second))
        #expect(bucket.isFull(rate, at: 101 * Self.second))
    }

    @Test("A clock that stands still or goes back earns nothing")
    func clock() {
        let rate = Rate(perSecond: 1, burst: 1)
        var bucket = TokenBucket(rate, at: 10 * Self.second)
        #expect(bucket.take(of: rate, at: 10 * Self.second) == true)
        #expect(bucket.take(of: rate, at: 0) == false)
        #expect(bucket.take(of: rate, at: 10 * Self.second) == false)
    }

    @Test("What was spent beyond the burst says how long to wait")
    func debt() {
        let rate = Rate(perSecond: 100, burst: 100)
        var bucket = TokenBucket(rate, at: 0)
        #expect(bucket.spend(100, of: rate, at: 0) == 0)
        #expect(bucket.spend(50, of: rate, at: 0) == Self.second / 2)
        #expect(bucket.spend(0, of: rate, at: Self.second / 2) == 0)
    }

    // MARK: Tables

    @Test("A table counts the connections of each key, and lets go of them")
    func table() {
        var table = ConnectionTable<String>(maximum: 2, rate: nil)
        #expect(table.open("a", at: 0) == nil)
        #expect(table.open("a", at: 0) == nil)
        #expect(table.open("a", at: 0) == .tooMany)
        #expect(table.open("b", at: 0) == nil)
        table.close("a")
        #expect(table.open("a", at: 0) == nil)
        for key in ["a", "a", "b", "b", "never seen"] { table.close(key) }
        #expect(table.count == 0)
    }

    @Test("Coming and going quickly is limited too, by each key")
    func rate() {
        var table = ConnectionTable<String>(maximum: 100, rate: Rate(perSecond: 1, burst: 2))
        for _ in 0..<2 {
            #expect(table.open("a", at: 0) == nil)
            table.close("a")
        }
        #expect(table.open("a", at: 0) == .tooFast)
        #expect(table.open("b", at: 0) == nil)
        #expect(table.open("a", at: Self.second) == nil)
    }

    @Test("However many addresses come, a table stays bounded and forgets nobody who is connected")
    func boundedTable() {
        var table = ConnectionTable<Int>(maximum: 1, rate: Rate(perSecond: 1, burst: 1), capacity: 100)
        #expect(table.open(-1, at: 0) == nil)
        var most = 0
        for key in 0..<100_000 {
            #expect(table.open(key, at: UInt64(key)) == nil)
            table.close(key)
            most = max(most, table.count)
        }
        #expect(most <= 302)
        #expect(table.open(-1, at: 1_000 * Self.second) == .tooMany)
    }

    @Test("Of a flood of refusals a few are told, and how many were not")
    func refusalLog() {
        var log = RefusalLog(at: 0)
        let told = (0..<1_000).filter { _ in log.next(at: 0) != .skip }.count
        #expect(told == 100)
        #expect(log.next(at: Self.second) == .tell(untold: 900))
        #expect(log.next(at: Self.second) == .tell(untold: 0))
    }

    // MARK: Addresses

    @Test(
        "Addresses are read and written, IPv4 also when mapped, and counted by what one customer has",
        arguments: [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"), ("::1", "::1", "::"),
            ("fe80::1%eth0", "fe80::1", "fe80::"),
        ])
    func addresses(text: String, written: String, key: String) throws {
        let address = try #require(NetworkAddress(text))
        #expect(address.description == written)
        #expect(address.limitKey.description == key)
    }

    @Test("What is no address is none", arguments: ["", "192.0.2", "192.0.2.256", "localhost", "[::1]", ":::"])
    func noAddress(text: String) { #expect(NetworkAddress(text) == nil) }

    @Test(
        "A range contains what has its prefix",
        arguments: [
            ("10.0.0.0/8", "10.255.1.2", true), ("10.0.0.0/8", "11.0.0.0", false), ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false), ("0.0.0.0/0", "203.0.113.9", true), ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true), ("2001:db8::/33", "2001:db8:8000::1", false),
            ("2001:db8::/65", "2001:db8::7fff:0:0:1", true), ("2001:db8::/65", "2001:db8::8000:0:0:1", false),
            ("::/0", "10.0.0.1", true), ("::ffff:10.0.0.0/8", "10.9.9.9", true),
        ])
    func ranges(range: String, address: String, isInside: Bool) throws {
        #expect(try AddressRange(range).contains(try #require(NetworkAddress(address))) == isInside)
    }

    @Test("What is no range is refused", arguments: ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "::/129", "x/8"])
    func noRange(text: String) {
        #expect(throws: BrokerError(.configuration, "")) { try AddressRange(text) }
    }

    // MARK: PROXY headers

    static let signature: [UInt8] = [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A]
    static let v4: [UInt8] = [203, 0, 113, 9, 192, 0, 2, 1, 0x30, 0x39, 0x22, 0xB3]
    static let v6: [UInt8] =
        [0x20, 0x01, 0x0D, 0xB8] + [UInt8](repeating: 0, count: 11) + [7] + [UInt8](repeating: 0, count: 15) + [1]
        + [0x30, 0x39, 0x22, 0xB3]

    static func header(_ command: UInt8, _ family: UInt8, _ body: [UInt8], length: Int? = nil) -> [UInt8] {
        let length = length ?? body.count
        return self.signature + [command, family, UInt8(length >> 8), UInt8(length & 0xFF)] + body
    }

    static let goodHeaders: [([UInt8], String?)] = [
        (header(0x21, 0x11, v4), "203.0.113.9"), (header(0x21, 0x21, v6), "2001:db8::7"),
        // With extensions, known or not.
        (header(0x21, 0x11, v4 + [0x03, 0, 4, 1, 2, 3, 4, 0xEE, 0, 0]), "203.0.113.9"),
        // The balancer itself: its health checks.
        (header(0x20, 0x00, []), nil), (header(0x20, 0x11, v4), nil), (header(0x20, 0x31, [1, 2, 3]), nil),
        (header(0x21, 0x00, []), nil),
    ]

    @Test("A header says who the client is, and what follows stays", arguments: goodHeaders)
    func proxyHeader(bytes: [UInt8], source: String?) throws {
        var buffer = ByteBuffer(bytes: bytes + [0x16, 0x03, 0x01])
        let read = try ProxyHeader.read(&buffer)
        let header = try #require(read)
        #expect(header.source?.description == source)
        #expect(header.port == (source == nil ? 0 : 12_345))
        #expect(Array(buffer.readableBytesView) == [0x16, 0x03, 0x01])
        // In pieces: nothing is taken before all is there.
        for length in 0..<bytes.count {
            var part = ByteBuffer(bytes: bytes[..<length])
            let early = try ProxyHeader.read(&part)
            #expect(early == nil)
            #expect(part.readableBytes == length)
        }
    }

    static let badHeaders: [[UInt8]] = [
        Array("PROXY TCP4 203.0.113.9 192.0.2.1 12345 8883\r\n".utf8), [0x16], [0x0D, 0x0A, 0x0D, 0x0B],
        header(0x11, 0x11, v4), header(0x22, 0x11, v4), header(0x21, 0x12, v4), header(0x21, 0x31, v4),
        header(0x21, 0x11, Array(v4[..<11])), header(0x21, 0x21, v4), header(0x21, 0x11, v4, length: 2_049),
        header(0x21, 0x11, v4 + [0x03]), header(0x21, 0x11, v4 + [0x03, 0, 5, 1, 2, 3, 4]),
    ]

    @Test("A header that is none is refused", arguments: badHeaders)
    func badProxyHeader(bytes: [UInt8]) {
        var buffer = ByteBuffer(bytes: bytes)
        #expect(throws: ProxyHeaderError.self) { try ProxyHeader.read(&buffer) }
    }

    @Test("Mutated headers end in a header or an error")
    func mutatedProxyHeaders() {
        var random = SplitMix64(seed: 20)
        for _ in 0..<50_000 {
            var bytes = Self.goodHeaders[Int.random(in: 0..<Self.goodHeaders.count, using: &random)].0
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(in: .min ... .max, using: &random)
            }
            var buffer = ByteBuffer(bytes: bytes)
            let before = buffer.readableBytes
            if let header = try? ProxyHeader.read(&buffer) {
                #expect(buffer.readableBytes <= before - 16 && header.port >= 0)
            }
        }
    }

    // MARK: WebSocket requests

    private func request(
        _ uri: String = "/mqtt", method: HTTPMethod = .GET, version: HTTPVersion = .http1_1, without: String? = nil,
        with more: [(String, String)] = []
    ) -> HTTPRequestHead {
        var headers: HTTPHeaders = [
            "host": "broker.example", "upgrade": "WebSocket", "connection": "keep-alive, Upgrade",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13",
            "sec-websocket-protocol": "chat, mqtt",
        ]
        if let without { headers.remove(name: without) }
        for (name, value) in more { headers.replaceOrAdd(name: name, value: value) }
        return HTTPRequestHead(version: version, method: method, uri: uri, headers: headers)
    }

    private func status(_ request: HTTPRequestHead, origins: [String] = []) -> UInt? {
        do {
            try WebSocketPolicy(allowedOrigins: origins).check(request)
            return nil
        } catch {
            return error.status.code
        }
    }

    @Test("A request becomes a WebSocket if everything is right with it, and else is told why not")
    func webSocketPolicy() {
        #expect(self.status(self.request()) == nil)
        #expect(self.status(self.request("/mqtt?x=1")) == nil)
        #expect(self.status(self.request("/")) == 404)
        #expect(self.status(self.request("/mqtt/")) == 404)
        #expect(self.status(self.request(method: .POST)) == 400)
        #expect(self.status(self.request(version: .http1_0)) == 400)
        #expect(self.status(self.request(without: "upgrade")) == 426)
        #expect(self.status(self.request(without: "connection")) == 400)
        #expect(self.status(self.request(without: "sec-websocket-key")) == 400)
        #expect(self.status(self.request(with: [("sec-websocket-version", "8")])) == 400)
        #expect(self.status(self.request(without: "sec-websocket-protocol")) == 400)
        #expect(self.status(self.request(with: [("sec-websocket-protocol", "chat, mqttv3.1")])) == 400)
    }

    @Test("Pages of foreign origins may not connect; those that are listed may")
    func origins() {
        let page = self.request(with: [("origin", "https://console.example.org")])
        #expect(self.status(page) == 403)
        #expect(self.status(page, origins: ["https://Console.example.org"]) == nil)
        #expect(self.status(page, origins: ["http://console.example.org"]) == 403)
        #expect(self.status(page, origins: ["https://console.example.org:8443"]) == 403)
        #expect(self.status(self.request(with: [("origin", "null")]), origins: ["https://console.example.org"]) == 403)
        // Not even the broker's own name: nothing of it serves pages.
        #expect(self.status(self.request(with: [("origin", "https://broker.example")])) == 403)
    }
}
