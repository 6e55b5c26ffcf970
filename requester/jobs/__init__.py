"""Backups that are made again and again: what, where to, when, and how long they are kept."""
