"""A VSS writer for Groonga databases."""
