"""Shadowset: the Volume Shadow Copy Service for Linux."""

__version__ = "0.1.0"
