"""Data that one worker holds of a partitioned graph."""
