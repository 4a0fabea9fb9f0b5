import Foundation
import TestSupport
import Testing

/// The examples, run as their users would.
@Suite(.enabled(if: MosquittoServer.isInstalled, "mosquitto is not installed"))
struct ExamplesTests {
    /// Absolute path of `mqtt-example`, as built beside the tests.
    private static let program: String = {
        let own =
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
            ?? CommandLine.arguments[0]
        return URL(fileURLWithPath: own).deletingLastPathComponent().path + "/mqtt-example"
    }()

    private func start(_ command: String, _ port: Int, _ arguments: [String]) throws -> ChildProcess {
        try ChildProcess(Self.program, [command, "--port", "\(port)"] + arguments)
    }

    @Test("publish and subscribe", arguments: [[], ["--v3"]])
    func publishAndSubscribe(version: [String]) async throws {
        let mosquitto = try await MosquittoServer()
        let subscriber = try self.start("subscribe", mosquitto.port, ["a/+", "--count", "2", "--qos", "2"] + version)
        _ = try await subscriber.waitForOutput("subscribed")
        for (text, qos) in [("one", "1"), ("two", "2")] {
            let publisher = try self.start("publish", mosquitto.port, ["a/x", text, "--qos", qos] + version)
            #expect(try await publisher.wait() == .exited(0), "\(publisher.errorOutput)")
        }
        #expect(try await subscriber.wait() == .exited(0), "\(subscriber.errorOutput)")
        #expect(subscriber.output == "subscribed\na/x one\na/x two\n")
    }

    @Test("request and respond")
    func requestAndRespond() async throws {
        let mosquitto = try await MosquittoServer()
        let responder = try self.start("respond", mosquitto.port, ["ask", "--count", "1"])
        _ = try await responder.waitForOutput("responding")
        let requester = try self.start("request", mosquitto.port, ["ask", "what?"])
        #expect(try await requester.wait() == .exited(0), "\(requester.errorOutput)")
        #expect(requester.output == "WHAT?\n")
        #expect(try await responder.wait() == .exited(0), "\(responder.errorOutput)")
        let unheard = try self.start("request", mosquitto.port, ["nobody", "what?", "--timeout", "1"])
        #expect(try await unheard.wait() == .exited(69))
        #expect(unheard.errorOutput.hasPrefix("mqtt-example: request-timeout: "))
    }

    struct Failure: Sendable, CustomTestStringConvertible {
        var arguments: [String]
        var status: Int32
        var text: String
        var testDescription: String { self.arguments.joined(separator: " ") }
    }

    @Test(
        "What goes wrong is one line and an exit status",
        arguments: [
            Failure(arguments: ["publish", "--port", "1", "a", "b"], status: 69, text: "connect-failed"),
            Failure(
                arguments: ["publish", "--host", "192.0.2.1", "a", "b"], status: 64, text: "invalid-configuration"),
            Failure(
                arguments: ["publish", "--v3", "--content-type", "x", "a", "b", "--port"], status: 64,
                text: "not-in-this-version"),
            Failure(arguments: ["publish", "a/#", "b"], status: 64, text: "'a/#': a topic name"),
            Failure(arguments: ["subscribe", "a#"], status: 64, text: "'a#': "),
            Failure(arguments: ["publish", "a", "b", "--expiry=-1"], status: 64, text: "0 to 4294967295"),
            Failure(arguments: ["subscribe", "a", "--count", "0"], status: 64, text: "--count 0: "),
            Failure(
                arguments: ["publish", "a", "b", "--password-file", "/none"], status: 64,
                text: "--password-file /none: the file cannot be read"),
            Failure(arguments: ["publish", "--port", "1", "a", "b"], status: 69, text: "1: Connection refused\n"),
            Failure(
                arguments: ["durable-publish", "--client-id", "c", "--store", "/proc/none", "a"], status: 73,
                text: "/proc/none"),
        ])
    func failures(failure: Failure) async throws {
        let mosquitto = try await MosquittoServer()
        let arguments = failure.arguments + (failure.arguments.last == "--port" ? ["\(mosquitto.port)"] : [])
        let process = try ChildProcess(Self.program, arguments)
        #expect(try await process.wait() == .exited(failure.status), "\(process.errorOutput)")
        #expect(process.errorOutput.contains(failure.text), "\(process.errorOutput)")
    }

    // MARK: kill -9

    @Test("A publisher that is killed again and again: what was accepted arrives, and nothing arrives twice")
    func killedPublisher() async throws {
        let mosquitto = try await MosquittoServer()
        let directory = try TemporaryDirectory()
        let watcher = try self.start("subscribe", mosquitto.port, ["in", "--qos", "2"])
        _ = try await watcher.waitForOutput("subscribed")
        var random = SystemRandomNumberGenerator()
        var accepted: Set<String> = []
        var offered: Set<String> = []
        let rounds = 8
        for round in 0..<rounds {
            let lines = (0..<200).map { "\(round)-\($0)" }
            offered.formUnion(lines)
            let input = try directory.write(lines.joined(separator: "\n") + "\n", to: "lines-\(round)")
            let publisher = try ChildProcess(
                "/bin/sh",
                [
                    "-c",
                    "exec '\(Self.program)' durable-publish --port \(mosquitto.port) --client-id durable "
                        + "--store '\(directory.path("store"))' in < '\(input)'",
                ])
            if round < rounds - 1 {
                // Not a wait for something: the moment of a crash is any.
                try await Task.sleep(for: .milliseconds(Int.random(in: 50...400, using: &random)))
                publisher.kill()
                _ = try await publisher.wait()
            } else {
                #expect(try await publisher.wait(within: .seconds(100)) == .exited(0), "\(publisher.errorOutput)")
            }
            for line in publisher.output.split(separator: "\n") where line.hasPrefix("accepted ") {
                accepted.insert(String(line.dropFirst("accepted ".count)))
            }
        }
        let last = try self.start("publish", mosquitto.port, ["in", "end"])
        #expect(try await last.wait() == .exited(0))
        let output = try await watcher.waitForOutput("in end\n")
        watcher.kill()
        let arrived = output.split(separator: "\n").compactMap { line in
            line.hasPrefix("in ") && line != "in end" ? String(line.dropFirst(3)) : nil
        }
        #expect(Set(arrived).count == arrived.count, "something arrived twice")
        #expect(accepted.subtracting(arrived).isEmpty, "something accepted did not arrive")
        #expect(Set(arrived).subtracting(offered).isEmpty)
        #expect(accepted.count >= 200)
    }

    @Test("A subscriber that is killed again and again loses nothing, and repeats only what it had not settled")
    func killedSubscriber() async throws {
        let mosquitto = try await MosquittoServer()
        let directory = try TemporaryDirectory()
        func subscribe(_ count: Int? = nil) throws -> ChildProcess {
            try self.start(
                "durable-subscribe", mosquitto.port,
                ["--client-id", "durable", "--store", directory.path("store"), "in"]
                    + (count.map { ["--count", "\($0)"] } ?? []))
        }
        var subscriber = try subscribe()
        _ = try await subscriber.waitForOutput("subscribed")
        let lines = (0..<400).map { "\($0)" }
        let input = try directory.write(lines.joined(separator: "\n") + "\n", to: "lines")
        let publisher = try ChildProcess(
            "/bin/sh",
            [
                "-c",
                "exec '\(Self.program)' durable-publish --port \(mosquitto.port) --client-id publisher "
                    + "--store '\(directory.path("publisher"))' in < '\(input)'",
            ])
        var random = SystemRandomNumberGenerator()
        var arrived: [String] = []
        let kills = 6
        for _ in 0..<kills {
            // Not a wait for something: the moment of a crash is any.
            try await Task.sleep(for: .milliseconds(Int.random(in: 20...200, using: &random)))
            subscriber.kill()
            _ = try await subscriber.wait()
            arrived += Self.texts(subscriber)
            subscriber = try subscribe()
        }
        #expect(try await publisher.wait(within: .seconds(100)) == .exited(0), "\(publisher.errorOutput)")
        let last = try self.start("publish", mosquitto.port, ["in", "end", "--qos", "2"])
        #expect(try await last.wait() == .exited(0))
        _ = try await subscriber.waitForOutput("in end\n")
        subscriber.kill()
        _ = try await subscriber.wait()
        arrived += Self.texts(subscriber)
        #expect(Set(arrived) == Set(lines + ["end"]))
        // One at a time is unsettled.
        #expect(arrived.count - lines.count - 1 <= kills)
    }

    private static func texts(_ process: ChildProcess) -> [String] {
        process.output.split(separator: "\n").compactMap { $0.hasPrefix("in ") ? String($0.dropFirst(3)) : nil }
    }
}
