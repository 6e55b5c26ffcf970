"""Writers for the system itself: its state, the layout of its disks, and its users' files."""
