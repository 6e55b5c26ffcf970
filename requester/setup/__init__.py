"""Putting Shadowset onto a host, and taking it away again: steps, what was made, and the order of both."""
