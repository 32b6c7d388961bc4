"""Client of the graph service."""
