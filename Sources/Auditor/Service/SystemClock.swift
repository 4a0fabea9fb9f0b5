// On Linux the fields of `timespec` belong to this module once Foundation is linked.
import CoreFoundation
import Foundation
public import Telemetry

extension Timestamp {
    /// The time by the system's clock.
    public static var now: Timestamp {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Timestamp(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }
}

extension ClockQuality {
    /// `synchronised` if systemd's time service says so, else `informative`.
    public static var ofSystem: ClockQuality {
        access("/run/systemd/timesync/synchronized", F_OK) == 0 ? .synchronised : .informative
    }
}
