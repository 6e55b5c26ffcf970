"""A writer for sets of SQLite databases that belong to other applications."""
