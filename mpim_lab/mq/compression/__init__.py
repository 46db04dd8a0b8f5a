"""Compressed payloads: codec, framing, bounded decompression, dictionary (chapter 6)."""
