"""Labeled images: in memory and in files, how files are decoded, and the cache of decoded files."""
