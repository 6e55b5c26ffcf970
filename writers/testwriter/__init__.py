"""A writer that does what a configuration file tells it, also what no writer should do: for testing requesters."""
