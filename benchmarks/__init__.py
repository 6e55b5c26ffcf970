"""Figures against named peers, each from a run that anyone can repeat."""
