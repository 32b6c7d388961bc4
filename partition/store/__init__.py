"""Partitioned store: the format of its manifest, parts, index and communities."""
