"""Package `graphtheta.v1` of the messages: the graph service and the prediction service."""
