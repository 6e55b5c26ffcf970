"""A test for writers in any language: a coordinator that speaks the writer protocol to one writer, well and badly."""
