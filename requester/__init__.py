"""Requesters: a client library shaped like IVssBackupComponents, backup and restore engines, the command line."""
