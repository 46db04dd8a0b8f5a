"""The connection to the server: address, RESP, reconnecting, retry, waiting, atomic scripts (chapters 1 and 7)."""
