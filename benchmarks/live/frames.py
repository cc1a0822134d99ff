"""WebSocket frames as a client sends and counts them (RFC 6455): whole messages, uncompressed."""

from collections.abc import Iterator

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
"""First bytes of final frames."""
EVENT = 128
"""Bytes of payload from which on a frame is an event; what else servers say is shorter."""

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1:{port}\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "{headers}\r\n"
)


def client_frame(payload: bytes, first: int = TEXT) -> bytes:
    """A frame with the mask that leaves its payload as it is: servers unmask it all the same."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 2**16:
        head = bytes((first, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8)
    return head + bytes(4) + payload


def frames(buffer: bytearray, size: int) -> Iterator[tuple[int, int, int]]:
    """The first byte of each whole frame in the buffer, and where its payload starts and ends."""
    at = 0
    while at + 2 <= size:
        length, start = buffer[at + 1], at + 2
        if length == 126:
            start = at + 4
            length = int.from_bytes(buffer[at + 2 : start])
        elif length == 127:
            start = at + 10
            length = int.from_bytes(buffer[at + 2 : start])
        if start + length > size:
            return
        yield buffer[at], start, start + length
        at = start + length
