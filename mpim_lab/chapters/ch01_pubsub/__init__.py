"""Chapter 1: Pub/Sub delivery."""
