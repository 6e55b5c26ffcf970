"""Volumes that come in and go out with their file systems: mounted at boot, adopted, released."""
