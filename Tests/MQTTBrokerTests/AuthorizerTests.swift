import Identity
import MQTT
import MQTTBroker
import Testing

struct AuthorizerTests {
    @Test(
        "The topic table decides who publishes where",
        arguments: [
            (Role.auditor, "a", "audits/measures/a", false, nil as String?),
            (.auditor, "a", "audits/hello/a", false, nil),
            (.auditor, "a", "audits/alerts/a", false, nil), (.auditor, "a", "audits/measures/b", false, "topic"),
            (.auditor, "a", "audits/measures/a", true, "retained"), (.auditor, "a", "audits/measures", false, "topic"),
            (.auditor, "a", "audits/measures/a/b", false, "topic"), (.auditor, "a", "anything", false, "topic"),
            (.auditor, "a", "control_center/receipts/a", false, "topic"),
            (.controlCenter, "c", "control_center/receipts/a", false, nil),
            (.controlCenter, "c", "control_center/receipts/a", true, "retained"),
            (.controlCenter, "c", "control_center/keys", true, nil),
            (.controlCenter, "c", "control_center/updates/a/c/P", false, nil),
            (.controlCenter, "c", "control_center/updates/a/d/P", false, "topic"),
            (.controlCenter, "c", "audits/measures/a", false, "topic"),
            (.operator, "o", "control_center/receipts/a", false, "topic"),
            (.operator, "o", "audits/measures/o", false, "topic"),
            (.broker, "b", "audits/measures/b", false, "topic"),
        ])
    func publish(role: Role, id: String, topic: String, isRetained: Bool, expected: String?) throws {
        let refusal = TopicTableAuthorizer().refusalToPublish(
            try TopicName(topic), isRetained: isRetained, by: try peer(role, id))
        #expect(refusal == expected)
    }

    @Test(
        "The topic table decides who subscribes to what",
        arguments: [
            (Role.auditor, "a", "control_center/receipts/a", true), (.auditor, "a", "control_center/receipts/b", false),
            (.auditor, "a", "control_center/receipts/+", false), (.auditor, "a", "#", false),
            (.auditor, "a", "+/+/a", false),
            (.auditor, "a", "control_center/updates/a/#", true), (.auditor, "a", "control_center/updates/#", false),
            (.auditor, "a", "control_center/alerts/all", true), (.auditor, "a", "audits/measures/a", false),
            (.operator, "o", "audits/#", true), (.operator, "o", "control_center/#", true),
            (.operator, "o", "$SYS/#", true), (.auditor, "a", "$SYS/#", false),
            (.operator, "o", "#", false),
            (.operator, "o", "audits/+/x", true), (.controlCenter, "c", "audits/#", true),
            (.controlCenter, "c", "#", false), (.broker, "b", "audits/#", false),
        ])
    func subscribe(role: Role, id: String, filter: String, isAllowed: Bool) throws {
        let refusal = TopicTableAuthorizer().refusalToSubscribe(try TopicFilter(filter), by: try peer(role, id))
        #expect((refusal == nil) == isAllowed)
    }

    @Test("A broker's or an authority's certificate opens no session", arguments: Role.allCases)
    func connect(role: Role) throws {
        #expect(
            (TopicTableAuthorizer().refusalToConnect(try peer(role, "x")) == nil)
                == (![.broker, .authority].contains(role)))
    }
}
