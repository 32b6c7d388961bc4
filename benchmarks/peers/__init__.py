"""Worker processes that run GraphTheta, PyG, DGL and torch in turns, for the benchmark scripts."""
