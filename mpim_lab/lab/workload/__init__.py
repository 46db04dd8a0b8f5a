"""Seeded workloads and the corpus of chat lines."""
