"""Samba shares on protected volumes: previous versions, and shadow copies asked for over the network."""
