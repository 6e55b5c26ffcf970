"""The writer library (``sdk``) and the writers that ship: SQLite databases, and a demonstration farm."""
