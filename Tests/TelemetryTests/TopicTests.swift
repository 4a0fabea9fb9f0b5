import Identity
import Telemetry
import Testing

@Suite("The topic table")
struct TopicTests {
    let home: Identifier
    let center: Identifier

    init() throws {
        self.home = try Identifier("home-1")
        self.center = try Identifier("center-1")
    }

    static let names = [
        "audits/hello/home-1", "audits/measures/home-1", "audits/alerts/home-1", "control_center/receipts/home-1",
        "control_center/updates/home-1/center-1/MAX_POWER", "control_center/alerts/home-1",
        "control_center/alerts/all", "control_center/keys", "control_center/crl", "control_center/checkpoint",
    ]

    @Test("Topics are read as they are written", arguments: Self.names)
    func reads(_ name: String) {
        #expect(Topic(name)?.description == name)
    }

    @Test(
        "Anything else is no topic",
        arguments: [
            "", "/", "audits", "audits/hello", "audits/hello/", "audits/hello/home-1/", "/audits/hello/home-1",
            "audits/hello/all", "audits/measures/ALL", "audits/measures/a b", "audits/measures/+", "audits/measures/#",
            "audits/other/home-1", "Audits/hello/home-1", "control_center", "control_center/keys/", "$SYS/x",
            "control_center/updates/home-1/center-1/max", "control_center/updates/home-1/center-1",
            "control_center/updates/home-1/center-1/A/B", "control_center/updates/home-1/center-1/1A",
            "control_center/updates/all/center-1/A", "control_center/receipts/all", "control_center/alerts/All",
            "audits/hello/" + String(repeating: "x", count: 65),
        ])
    func refuses(_ name: String) {
        #expect(Topic(name) == nil)
    }

    @Test(
        "Who may publish what",
        arguments: [
            ("auditor", "home-1", [0, 1, 2]), ("auditor", "home-2", []), ("auditor", "HOME-1", []),
            ("control-center", "center-1", [3, 4, 5, 6, 7, 8, 9]), ("control-center", "center-2", [3, 5, 6, 7, 8, 9]),
            ("control-center", "home-1", [3, 5, 6, 7, 8, 9]), ("operator", "home-1", []), ("broker", "home-1", []),
        ])
    func publishes(_ role: String, _ id: String, _ allowed: [Int]) throws {
        let role = try #require(Role(rawValue: role))
        let id = try Identifier(id)
        for (index, name) in Self.names.enumerated() {
            let refusal = TopicTable.refusalToPublish(name, isRetained: false, by: role, id)
            #expect(refusal == (allowed.contains(index) ? nil : .topic), "\(name)")
        }
        #expect(TopicTable.refusalToPublish("anything", isRetained: false, by: role, id) == .topic)
    }

    @Test("Only keys, CRL and checkpoint are retained", arguments: Self.names.indices)
    func retains(_ index: Int) {
        let role: Role = index < 3 ? .auditor : .controlCenter
        let id = index < 3 ? self.home : self.center
        let refusal = TopicTable.refusalToPublish(Self.names[index], isRetained: true, by: role, id)
        #expect(refusal == (index >= 7 ? nil : .retained))
    }

    @Test("Wills belong to an auditor's own alerts only")
    func wills() {
        #expect(TopicTable.refusalOfWill("audits/alerts/home-1", isRetained: false, by: .auditor, self.home) == nil)
        #expect(
            TopicTable.refusalOfWill("audits/alerts/home-1", isRetained: true, by: .auditor, self.home) == .retained)
        #expect(
            TopicTable.refusalOfWill("audits/measures/home-1", isRetained: false, by: .auditor, self.home) == .topic)
        #expect(TopicTable.refusalOfWill("audits/alerts/home-2", isRetained: false, by: .auditor, self.home) == .topic)
        #expect(
            TopicTable.refusalOfWill("control_center/keys", isRetained: false, by: .controlCenter, self.center)
                == .topic)
    }

    @Test(
        "An auditor subscribes to what is meant for it",
        arguments: [
            ("control_center/receipts/home-1", true), ("control_center/updates/home-1/+/+", true),
            ("control_center/updates/home-1/#", true), ("control_center/updates/home-1/center-1/A", true),
            ("control_center/alerts/home-1", true), ("control_center/alerts/all", true), ("control_center/keys", true),
            ("control_center/crl", true), ("control_center/checkpoint", true),
            ("control_center/receipts/home-2", false), ("control_center/receipts/+", false),
            ("control_center/receipts/#", false), ("control_center/receipts/HOME-1", false),
            ("control_center/updates/+/+/+", false), ("control_center/updates/#", false), ("control_center/+", false),
            ("control_center/#", false), ("+/receipts/home-1", false), ("#", false), ("+/+/+", false),
            ("audits/measures/home-1", false), ("audits/#", false), ("$SYS/#", false), ("", false),
            ("control_center/receipts/home-1/#", false), ("$share/g/control_center/receipts/home-1", false),
            ("control_center/updates/home-1/a#", false), ("control_center/updates/home-1/#/x", false),
            ("control_center/updates/home-1/a+", false),
        ])
    func auditorSubscribes(_ filter: String, _ allowed: Bool) {
        #expect(TopicTable.maySubscribe(filter, .auditor, self.home) == allowed)
    }

    @Test(
        "The control center reads audits, operators read all, brokers nothing",
        arguments: [
            ("audits/#", true, true), ("audits/+/+", true, true), ("audits/measures/+", true, true),
            ("audits/hello/home-1", true, true), ("control_center/#", false, true),
            ("control_center/receipts/home-1", false, true), ("#", false, false), ("+/#", false, false),
            ("$share/group/audits/measures/+", true, false), ("$share//audits/#", false, false),
            ("$share/g", false, false), ("$share/g/#", false, false), ("$share/+/audits/#", false, false),
            ("$SYS/broker/load", false, true), ("$SYS/#", false, true), ("other", false, false),
        ])
    func othersSubscribe(_ filter: String, _ controlCenter: Bool, _ operators: Bool) {
        #expect(TopicTable.maySubscribe(filter, .controlCenter, self.center) == controlCenter)
        #expect(TopicTable.maySubscribe(filter, .operator, self.center) == operators)
        #expect(!TopicTable.maySubscribe(filter, .broker, self.center))
    }

    @Test(
        "A filter covers another if it matches all that the other matches",
        arguments: [
            ("#", "a", true), ("#", "#", true), ("#", "a/+/#", true), ("#", "$SYS/a", false), ("+", "a", true),
            ("+", "+", true), ("+", "#", false), ("+", "a/b", false), ("+", "$a", false), ("a/+", "a/#", false),
            ("a/#", "a", true), ("a/#", "a/#", true), ("a/#", "a/+/b", true), ("a/#", "b", false),
            ("a/b", "a/+", false), ("a/b", "a/b", true), ("a/b", "a", false), ("a", "a/b", false),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a/+/c", true), ("a/+/c", "a/b/+", false), ("+/+", "/a", true), ("a/+", "a/", true),
        ])
    func covers(_ granted: String, _ asked: String, _ expected: Bool) {
        #expect(TopicTable.filter(granted, covers: asked) == expected)
    }
}
