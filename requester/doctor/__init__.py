"""Looking for what will hurt, before it does: checks of the host, the service, the volumes and their storage."""
