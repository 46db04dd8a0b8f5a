"""Idempotency: the store, atomic effects, the producer, SQL inbox and outbox (chapter 3)."""
