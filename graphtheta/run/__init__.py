"""Training runs: from a configuration to a trained model and its predictions."""
