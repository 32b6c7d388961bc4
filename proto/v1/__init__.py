"""Version 1 of the protocol: the graph service and the prediction service."""
