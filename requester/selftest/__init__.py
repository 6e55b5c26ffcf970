"""Faults on a volume of its own, on this host: whether what is promised holds here."""
