"""The connection to the server: RESP, reconnecting, waiting, retry (chapters 1 and 7)."""
