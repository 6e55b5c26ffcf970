"""The status page: what there is and how it goes, read-only, for a browser on this host."""
