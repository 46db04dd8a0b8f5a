"""Chapter 3: idempotency."""
