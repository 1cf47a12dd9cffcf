"""Frozen values that every room shares: tables, changes, receipts, parities, the project. No I/O, no technology."""
