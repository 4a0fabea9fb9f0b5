// The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2): a load balancer says, before
// the first byte of its client, who that client is.

package import Connections
package import NIOCore

/// A header of version 2 in binary form.
package struct ProxyHeader: Hashable, Sendable {
    /// The client; `nil` if the balancer speaks for itself (LOCAL, or an unspecified family).
    package let source: NetworkAddress?
    /// 0 without a source.
    package let port: UInt16

    /// The most that may follow the first 16 bytes. Addresses take 36; the rest is for extensions, which we skip.
    package static let maximumLength = 2_048

    private static let signature: [UInt8] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ]

    /// Takes a header from the front. What cannot become one is refused at its first wrong byte.
    ///
    /// - Returns: `nil` if more is needed; then nothing was taken.
    package static func read(_ buffer: inout ByteBuffer) throws(ProxyHeaderError) -> ProxyHeader? {
        let bytes = buffer.readableBytesView
        for (expected, byte) in zip(Self.signature, bytes) where expected != byte {
            throw ProxyHeaderError("it does not begin with the signature of version 2")
        }
        guard buffer.readableBytes >= 16 else { return nil }
        let start = buffer.readerIndex
        guard let command: UInt8 = buffer.getInteger(at: start + 12),
            let family: UInt8 = buffer.getInteger(at: start + 13),
            let length: UInt16 = buffer.getInteger(at: start + 14)
        else { return nil }
        guard command >> 4 == 2 else { throw ProxyHeaderError("its version is not 2") }
        guard command & 0x0F <= 1 else { throw ProxyHeaderError("its command is neither LOCAL nor PROXY") }
        guard length <= Self.maximumLength else {
            throw ProxyHeaderError("it has \(length) bytes, more than \(Self.maximumLength)")
        }
        let isLocal = command & 0x0F == 0
        let addressLength: Int
        switch family {
        case 0x11: addressLength = 12
        case 0x21: addressLength = 36
        case 0x00: addressLength = 0
        // LOCAL says nothing of a client, whatever the family.
        case _ where isLocal: addressLength = 0
        default: throw ProxyHeaderError("its family is neither TCP over IPv4 nor over IPv6")
        }
        guard isLocal || Int(length) >= addressLength else { throw ProxyHeaderError("it ends within its addresses") }
        guard buffer.readableBytes >= 16 + Int(length) else { return nil }
        buffer.moveReaderIndex(forwardBy: 16)
        guard var body = buffer.readSlice(length: Int(length)) else { return nil }
        if isLocal || addressLength == 0 { return ProxyHeader(source: nil, port: 0) }

        let source: NetworkAddress
        let port: UInt16
        if addressLength == 12 {
            guard let (client, _, clientPort, _) = body.readMultipleIntegers(as: (UInt32, UInt32, UInt16, UInt16).self)
            else { throw ProxyHeaderError("it ends within its addresses") }
            (source, port) = (NetworkAddress(v4: client), clientPort)
        } else {
            guard
                let (high, low, _, _, clientPort, _) = body.readMultipleIntegers(
                    as: (UInt64, UInt64, UInt64, UInt64, UInt16, UInt16).self)
            else { throw ProxyHeaderError("it ends within its addresses") }
            (source, port) = (NetworkAddress(v6: high, low), clientPort)
        }
        // Extensions (section 2.2.2): skipped, but they must be whole.
        while body.readableBytes > 0 {
            guard body.readInteger(as: UInt8.self) != nil, let size = body.readInteger(as: UInt16.self),
                size <= body.readableBytes
            else { throw ProxyHeaderError("an extension ends early") }
            body.moveReaderIndex(forwardBy: Int(size))
        }
        return ProxyHeader(source: source, port: port)
    }
}

/// One line: what is wrong with a header.
package struct ProxyHeaderError: Error, Hashable, Sendable, CustomStringConvertible {
    package let description: String

    init(_ reason: String) { self.description = reason }
}

/// Stands before TLS at connections from a load balancer: takes its header off, tells the connection who the
/// client is, and steps aside.
final class ProxyHeaderHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private let connection: ConnectionHandler
    private let balancer: NetworkAddress
    private var buffer = ByteBuffer()
    private var isDone = false

    init(connection: ConnectionHandler, balancer: NetworkAddress) {
        self.connection = connection
        self.balancer = balancer
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return }
        var bytes = self.unwrapInboundIn(data)
        self.buffer.writeBuffer(&bytes)
        do throws(ProxyHeaderError) {
            guard let header = try ProxyHeader.read(&self.buffer) else { return }
            self.isDone = true
            let origin = header.source.map { Origin(address: $0, port: Int(header.port)) }
            guard self.connection.comes(from: origin ?? Origin(address: self.balancer, port: 0)) else { return }
            if self.buffer.readableBytes > 0 { context.fireChannelRead(self.wrapInboundOut(self.buffer)) }
            self.buffer = ByteBuffer()
            context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
        } catch {
            self.isDone = true
            self.connection.refuse(.proxyHeader, "the PROXY header is malformed: \(error)")
        }
    }
}
