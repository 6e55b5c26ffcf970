"""The copy-on-write provider: shadow storage, the NBD server of the live volume, its device and its control socket."""
