"""Reading and writing files: atomic writes, digests, restricted loading, names with options."""
