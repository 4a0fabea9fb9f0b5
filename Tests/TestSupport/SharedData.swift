import Foundation

/// Readings and vectors too large for the repository.
///
/// Looked for in the folder that the environment variable `SECURE_MQTT_SHARED` names, else in a folder
/// `shared` beside the checkout. Tests that need it are `.enabled(if: SharedData.isPresent)`.
public enum SharedData {
    /// The folder's absolute path; `nil` if there is none.
    public static let folder: String? = {
        let named = ProcessInfo.processInfo.environment["SECURE_MQTT_SHARED"]
        // This file is Tests/TestSupport/SharedData.swift of the checkout.
        let checkout = URL(fileURLWithPath: #filePath)
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let path = named ?? checkout.deletingLastPathComponent().appendingPathComponent("shared").path
        var isDirectory: ObjCBool = false
        return FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) && isDirectory.boolValue
            ? path : nil
    }()

    /// Whether there is such a folder.
    public static var isPresent: Bool { self.folder != nil }

    /// The path of a file in the folder, such as `data/readings.csv`; `nil` if it is not there.
    public static func path(_ name: String) -> String? {
        guard let folder = self.folder else { return nil }
        let path = folder + "/" + name
        return FileManager.default.fileExists(atPath: path) ? path : nil
    }
}
