"""A writer for search indexes that applications keep by a library: Xapian and tantivy."""
