"""Attaches a volume's live NBD export as a block device, over the kernel's nbd or over FUSE and a loop device.

The two ways behave alike: a provider that is killed or replaced is waited for, and requests fail only after the dead
time. Nothing here knows the shadow storage; any NBD server with fixed newstyle negotiation will do.
"""
