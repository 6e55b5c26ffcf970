"""A writer for MariaDB and MySQL servers."""
