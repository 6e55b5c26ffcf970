"""A writer for Redis servers."""
