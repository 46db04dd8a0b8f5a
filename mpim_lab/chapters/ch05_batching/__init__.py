"""Chapter 5: batching."""
