"""Values in Arrow: exact casts, Python rows and frames, masks, types of files. Knows no database."""
