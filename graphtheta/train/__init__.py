"""Training: the loop, sum of gradients over workers, checkpoints and run directories."""
