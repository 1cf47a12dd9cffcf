"""What PostgreSQL's origin and destination share: bulk rows, key searches, texts and digests in its SQL."""
