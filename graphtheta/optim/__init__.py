"""Optimisers of learned rows, such as node embeddings."""
