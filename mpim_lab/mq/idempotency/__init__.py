"""Idempotency: the store, atomic effects, the producer that repeats one id, SQL inbox and outbox (chapter 3)."""
