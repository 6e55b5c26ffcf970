"""Any program, run where the protected volumes are shadow copies of themselves."""
