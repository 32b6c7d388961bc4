"""Server of the graph service and of predictions."""
