"""Batching: policies, buffer, flushing, transports, flow control, decoding (chapter 5)."""
