"""MySQL, MariaDB, SQLite and any other database that SQLAlchemy has a dialect for, as origins."""
