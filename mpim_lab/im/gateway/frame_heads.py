"""What a WebSocket frame begins with: RFC 6455, section 5.2."""

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A  # the first byte: the last fragment, and what it is
MASKED, TWO_BYTES, EIGHT_BYTES = 0x80, 126, 127  # the second byte: its first bit, and where a larger size is


def frame_head(first: int, size: int, mask: int = 0) -> bytes:
    r"""The head of a frame of so many bytes, up to the masking key; mask: MASKED if there is to be one.

    >>> frame_head(TEXT, 5), frame_head(TEXT, 300, MASKED)
    (b'\x81\x05', b'\x81\xfe\x01,')
    """
    if size < TWO_BYTES:
        return bytes((first, mask | size))
    if size < 65_536:
        return bytes((first, mask | TWO_BYTES)) + size.to_bytes(2, "big")
    return bytes((first, mask | EIGHT_BYTES)) + size.to_bytes(8, "big")
