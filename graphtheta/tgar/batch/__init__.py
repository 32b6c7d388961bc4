"""Batches: blocks, views, and the neighbourhoods that they are built from."""
