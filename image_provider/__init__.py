"""The provider of imported copies: images that came from other hosts as files."""
