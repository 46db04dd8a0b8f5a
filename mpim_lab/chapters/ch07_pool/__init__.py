"""Chapter 7: connection pooling."""
