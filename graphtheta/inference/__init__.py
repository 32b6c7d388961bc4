"""Inference: outputs of a trained model for all nodes, or for some of them."""
