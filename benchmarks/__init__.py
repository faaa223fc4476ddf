"""How fast the loss is, and next to what: see README.md."""
