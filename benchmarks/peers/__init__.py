"""What drives the peers: worker processes for GraphTheta, PyG, DGL and torch, run in turns."""
