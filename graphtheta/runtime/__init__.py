"""The process: its threads, memory, settings and cache folder, and files written atomically."""
