"""The connection pool: wait queue, policies, servers, connections, statistics (chapter 7)."""
