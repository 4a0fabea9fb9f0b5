import Telemetry
import Testing

@Suite("Parameters of an auditor")
struct ParameterTests {
    @Test(
        "take what is within their bounds, as it is written",
        arguments: [
            (Topic.Parameter.sampleRate, "0.05"), (.sampleRate, "0.2"), (.sampleRate, "900"), (.sampleRate, "86400"),
            (.sampleRate, "86400.000000000"), (.statementInterval, "0"), (.outboxLimit, "100"),
            (.logLevel, "debug"), (.metersEnabled, "main"), (.metersEnabled, "m1,inverter.2"),
        ])
    func takes(_ name: Topic.Parameter, _ text: String) throws {
        let definition = try #require(ParameterDefinition.named(name))
        let value = try definition.parse(text)
        #expect(value.description == text)
        #expect(ParameterValue(encoded: value.encoded) == value)
        #expect(throws: Refusal(.value, "")) { try definition.check(value, unit: "A") }
    }

    @Test(
        "refuse everything else",
        arguments: [
            (Topic.Parameter.sampleRate, "0.049999999999999999"), (.sampleRate, "86400.000000001"),
            (.sampleRate, "0.0500000001"), (.sampleRate, "-1"), (.sampleRate, "0"), (.sampleRate, "nan"),
            (.sampleRate, "inf"), (.sampleRate, "1e300"), (.sampleRate, "1e3"), (.sampleRate, ""),
            (.sampleRate, "9223372036854775807"), (.sampleRate, "0x10"), (.outboxLimit, "99"), (.outboxLimit, "100.0"),
            (.outboxLimit, "1000000001"), (.logLevel, "loud"), (.logLevel, "DEBUG"), (.metersEnabled, "a/b"),
            (.metersEnabled, "m1,m1"), (.statementInterval, "-0.1"),
        ])
    func refuses(_ name: Topic.Parameter, _ text: String) throws {
        let definition = try #require(ParameterDefinition.named(name))
        #expect(throws: Refusal(.value, "")) { _ = try definition.parse(text) }
    }

    @Test("refuse a value of another type")
    func types() throws {
        for definition in ParameterDefinition.all {
            for value: ParameterValue in [
                .flag(true), .text("1"), .texts(["a b"]), .number(try #require(ExactDecimal("-1"))),
            ] {
                #expect(throws: Refusal(.value, "")) { try definition.check(value, unit: definition.unit) }
            }
        }
    }
}
