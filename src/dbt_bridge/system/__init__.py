"""What the operating system keeps for a process: temporary files, memory. Knows nothing of data."""
