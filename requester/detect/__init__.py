"""Which applications run on this host, and what their writers would be configured with."""
