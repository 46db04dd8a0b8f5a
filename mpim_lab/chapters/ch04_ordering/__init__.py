"""Chapter 4: ordering."""
