"""The running process: signals, memory, and errors in words. The standard library only."""
