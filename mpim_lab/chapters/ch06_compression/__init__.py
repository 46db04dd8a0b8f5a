"""Chapter 6: compression."""
