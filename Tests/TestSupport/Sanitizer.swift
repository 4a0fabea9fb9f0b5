import Foundation

/// Whether the tests run under a sanitizer: what they measure of memory is then mostly its own.
public enum Sanitizer {
    public static let isOn = ProcessInfo.processInfo.environment["SANITIZER"] != nil
}
