"""From a configuration to a finished training run, and its predictions."""
