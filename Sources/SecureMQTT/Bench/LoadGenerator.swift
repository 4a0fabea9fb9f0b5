import Foundation
import MQTT
import NIOCore
import NIOPosix
import NIOSSL

/// Clients of one broker, all on one event loop, and what is measured with them.
struct LoadGenerator: Sendable {
    let port: Int
    /// The broker's process.
    let broker: Int32
    let payloadSize: Int
    let eventLoop: any EventLoop

    /// Messages delivered in a second, and the broker's CPU time for each.
    struct Throughput: Sendable {
        let perSecond: Double
        let microseconds: Double
    }

    struct Latency: Sendable {
        let median: Double
        let percentile99: Double
    }

    struct Connections: Sendable {
        let handshakesPerSecond: Double
        let kilobytesEach: Double
    }

    private struct Client: Sendable {
        let channel: any Channel
        let handler: NIOLoopBound<LoadClient>
    }

    private func connect(
        _ run: NIOLoopBound<LoadRun>, _ clientID: String, _ role: LoadClient.Role, _ tls: NIOSSLContext
    ) async throws -> Client {
        let ready = self.eventLoop.makePromise(of: Void.self)
        let size = self.payloadSize
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: self.eventLoop)
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        var configuration = NIOSSLClientHandler.Configuration()
                        configuration.maximumPreservedOutboundBufferCapacity = 65_536
                        try channel.pipeline.syncOperations.addHandlers(
                            try NIOSSLClientHandler(
                                context: tls, serverHostname: "localhost", configuration: configuration),
                            LoadClient(
                                run: run.value, clientID: clientID, role: role, payloadSize: size, ready: ready))
                    }
                }
                .connect(host: "127.0.0.1", port: self.port).get()
        } catch {
            ready.fail(error)
            throw error
        }
        try await ready.futureResult.get()
        let handler = try await channel.eventLoop.submit {
            NIOLoopBound(
                try channel.pipeline.syncOperations.handler(type: LoadClient.self), eventLoop: channel.eventLoop)
        }.get()
        return Client(channel: channel, handler: handler)
    }

    private func close(_ clients: [Client]) async {
        for client in clients { client.channel.close(promise: nil) }
        for client in clients { try? await client.channel.closeFuture.get() }
    }

    private func makeRun(_ qos: QoS, fan: Int) async throws -> NIOLoopBound<LoadRun> {
        let eventLoop = self.eventLoop
        return try await eventLoop.submit { NIOLoopBound(LoadRun(qos: qos, fan: fan), eventLoop: eventLoop) }.get()
    }

    /// As fast as it goes.
    ///
    /// - Parameters:
    ///   - publishers: topic and TLS of each.
    func throughput(
        qos: QoS, publishers: [(String, NIOSSLContext)], subscribers: Int, by tls: NIOSSLContext, seconds: Double
    ) async throws -> Throughput {
        let run = try await self.makeRun(qos, fan: subscribers)
        var clients: [Client] = []
        for number in 0..<subscribers {
            clients.append(try await self.connect(run, "s\(number)", .subscriber(filter: "audits/#"), tls))
        }
        var handlers: [NIOLoopBound<LoadClient>] = []
        for (index, (topic, tls)) in publishers.enumerated() {
            let client = try await self.connect(
                run, "p\(index)", .publisher(topic: topic, window: qos == .atMostOnce ? 0 : 20), tls)
            clients.append(client)
            handlers.append(client.handler)
        }
        try await self.eventLoop.submit { [handlers] in
            run.value.publishers = handlers.map(\.value)
            run.value.isRunning = true
            for publisher in run.value.publishers { publisher.begin() }
            run.value.pump()
        }.get()
        try await Task.sleep(for: .milliseconds(500))
        let before = try await self.mark(run)
        try await Task.sleep(for: .seconds(seconds))
        let after = try await self.mark(run)
        try await self.eventLoop.submit {
            run.value.stop()
        }.get()
        await self.close(clients)
        let count = after.delivered - before.delivered
        guard count > 0 else { throw CommandError(.unavailable, "the broker delivered nothing") }
        return Throughput(
            perSecond: Double(count) / ((after.time - before.time) / .seconds(1)),
            microseconds: (after.cpu - before.cpu) * 1e6 / Double(count))
    }

    private func mark(
        _ run: NIOLoopBound<LoadRun>
    ) async throws -> (delivered: Int, cpu: Double, time: ContinuousClock.Instant) {
        let delivered = try await self.eventLoop.submit { run.value.delivered }.get()
        return (delivered, ProcessFigures.cpuSeconds(self.broker), .now)
    }

    /// At a fixed rate, QoS 1: from the publisher's write to the subscriber's read.
    func latency(
        publishers: [(String, NIOSSLContext)], by tls: NIOSSLContext, rate: Int, seconds: Double
    ) async throws -> Latency {
        let run = try await self.makeRun(.atLeastOnce, fan: 1)
        var clients = [try await self.connect(run, "s", .subscriber(filter: "audits/#"), tls)]
        var handlers: [NIOLoopBound<LoadClient>] = []
        for (index, (topic, tls)) in publishers.enumerated() {
            let client = try await self.connect(run, "p\(index)", .publisher(topic: topic, window: 0), tls)
            clients.append(client)
            handlers.append(client.handler)
        }
        let perTick = max(1, rate / 1_000)
        let ticker = try await self.eventLoop.submit { [handlers, eventLoop = self.eventLoop] in
            run.value.publishers = handlers.map(\.value)
            run.value.isTimed = true
            // Not running: an acknowledgement calls for no other message.
            return eventLoop.scheduleRepeatedTask(initialDelay: .zero, delay: .milliseconds(1)) { _ in
                for _ in 0..<perTick {
                    let publisher = run.value.publishers[run.value.published % run.value.publishers.count]
                    publisher.publish()
                    publisher.flush()
                }
            }
        }.get()
        try await Task.sleep(for: .milliseconds(500))
        try await self.eventLoop.submit { run.value.latencies = [] }.get()
        try await Task.sleep(for: .seconds(seconds))
        ticker.cancel()
        let latencies = try await self.eventLoop.submit {
            run.value.publishers = []
            return run.value.latencies
        }.get().sorted()
        await self.close(clients)
        guard !latencies.isEmpty else { throw CommandError(.unavailable, "the broker delivered nothing") }
        return Latency(
            median: Double(latencies[latencies.count / 2]) / 1_000,
            percentile99: Double(latencies[latencies.count * 99 / 100]) / 1_000)
    }

    /// Connects so many, sixteen at a time, each with a full handshake, and looks at the broker's memory.
    func connections(_ count: Int, by tls: NIOSSLContext) async throws -> Connections {
        let run = try await self.makeRun(.atMostOnce, fan: 1)
        let warm = try await self.connect(run, "warm", .idle, tls)
        await self.close([warm])
        let memory = ProcessFigures.residentKilobytes(self.broker)
        let start = ContinuousClock.now
        let clients = try await withThrowingTaskGroup(of: Client.self) { group in
            var clients: [Client] = []
            for number in 0..<count {
                if number >= 16, let client = try await group.next() { clients.append(client) }
                group.addTask { try await self.connect(run, "i\(number)", .idle, tls) }
            }
            for try await client in group { clients.append(client) }
            return clients
        }
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        try await Task.sleep(for: .seconds(1))
        let grown = ProcessFigures.residentKilobytes(self.broker) - memory
        await self.close(clients)
        return Connections(
            handshakesPerSecond: Double(count) / seconds, kilobytesEach: Double(grown) / Double(count))
    }
}

/// What the system says of a process (proc(5)).
enum ProcessFigures {
    /// User and system time until now.
    static func cpuSeconds(_ process: Int32) -> Double {
        guard let text = try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8),
            let end = text.lastIndex(of: ")")
        else { return 0 }
        let fields = text[text.index(after: end)...].split(separator: " ")
        guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else { return 0 }
        return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    static func residentKilobytes(_ process: Int32) -> Int {
        guard let text = try? String(contentsOfFile: "/proc/\(process)/status", encoding: .utf8) else { return 0 }
        for line in text.split(separator: "\n") where line.hasPrefix("VmRSS:") {
            return line.split(separator: " ").compactMap { Int($0) }.first ?? 0
        }
        return 0
    }
}
