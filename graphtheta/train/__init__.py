"""Training in plain sight: the loop, gradients over workers, metrics, checkpoints, run folders."""
