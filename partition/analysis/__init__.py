"""Measure, compare, estimate and plot partitions."""
