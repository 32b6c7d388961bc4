"""One file for each partitioner, and their registry."""
