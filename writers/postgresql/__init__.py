"""A writer for PostgreSQL clusters."""
