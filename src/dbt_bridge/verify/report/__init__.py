"""What comparisons found, for people: terminal, HTML, SQL to look further."""
