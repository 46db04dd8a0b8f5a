"""Ordering: sequence numbers, reorder buffer, partitions, their assignment and workers (chapter 4)."""
