"""Streams with consumer groups: entries, groups, consumers, workers, dead letters (chapter 2)."""
