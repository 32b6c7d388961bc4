"""Out-of-core building blocks: spills, id tables, bit maps, files of edges and checkpoints."""
