"""Restore: checking a backup, choosing from it, and putting files back so that nothing is lost half-way."""
