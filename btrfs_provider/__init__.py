"""The btrfs provider: shadow copies of mounted btrfs subvolumes, made by the file system itself."""
