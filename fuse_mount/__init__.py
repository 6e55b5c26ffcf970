"""Shadow copies as read-only device objects: one file per copy, read straight from shadow storage."""
