"""Lowering: a traced `gather` becomes terms."""
