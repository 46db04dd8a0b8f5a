"""From a trace to a picture of every message's way."""
