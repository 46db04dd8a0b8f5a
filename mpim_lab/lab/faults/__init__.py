"""Faults: the injector, the proxies that break or slow a connection, the server's own switches."""
