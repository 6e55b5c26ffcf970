"""Backup: what to copy, copying it out of shadow copies, and the record of what was copied."""
