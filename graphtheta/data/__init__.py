"""A user's tables: schemas, column mapping, and the in-memory graph."""
