/// Every decoder that is fuzzed. Add a file `FuzzTarget+<Module>.swift` with a static array and name it here.
public enum FuzzTargets {
    public static let all: [FuzzTarget] =
        FuzzTarget.pki + FuzzTarget.pkcs11 + FuzzTarget.mqtt + FuzzTarget.mqttClient + FuzzTarget.broker
        + FuzzTarget.csv
        + FuzzTarget.telemetry + FuzzTarget.licore + FuzzTarget.enrolment
}
