"""Every row of two sides meets its counterpart, and what differs is found."""
