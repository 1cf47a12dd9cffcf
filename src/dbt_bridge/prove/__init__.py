"""Relations are proven to hold the same rows, reconciled, and repaired where they do not."""
