"""A writer for Oracle databases, over any driver that speaks as Python's data base drivers do."""
