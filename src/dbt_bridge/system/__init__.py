"""What a process needs of its system: temporary files, memory, and trying again. Knows nothing of data."""
