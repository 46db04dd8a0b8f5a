"""Chapter 2: streams and acknowledgements."""
