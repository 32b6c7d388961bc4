"""Out-of-core files: spills, id tables, bitmaps and checkpointed phases."""
