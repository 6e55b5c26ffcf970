"""A writer for QEMU's guests."""
