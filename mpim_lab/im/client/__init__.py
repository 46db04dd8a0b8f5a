"""The client: its connection, its requests, its conversations in order."""
