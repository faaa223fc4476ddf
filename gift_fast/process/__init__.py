"""The running process: signals, memory, log lines, error messages. Needs no other package."""
