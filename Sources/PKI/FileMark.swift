import Foundation

/// What changes when a file is replaced or written.
public struct FileMark: Hashable, Sendable {
    private let number: Int?
    private let size: Int?
    private let date: Date?

    /// - Returns: nil if there is no such file.
    public init?(_ path: String) {
        guard let attributes = try? FileManager.default.attributesOfItem(atPath: path) else { return nil }
        self.number = attributes[.systemFileNumber] as? Int
        self.size = attributes[.size] as? Int
        self.date = attributes[.modificationDate] as? Date
    }
}
