"""Run a trained model over the whole graph or over chosen nodes."""
