"""The phases that turn a graph source into a partitioned store."""
