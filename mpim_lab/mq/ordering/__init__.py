"""Ordering: sequence numbers, reorder buffer, partitions and their workers (chapter 4)."""
