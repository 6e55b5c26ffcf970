"""A writer that runs the freeze and thaw scripts which a host already has."""
