"""The gateway: handshake, sessions, frames, fast path, maintenance, HTTP and metrics."""
