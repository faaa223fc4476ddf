"""The formats of image files that are read, whatever a file's name ends in."""

from __future__ import annotations

IMAGE_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow's names of them. It knows sixty, and picks one by a file's first bytes: PostScript, a
program, would be run by Ghostscript where that is installed."""
