"""Sweeps: many runs of one graph, whose options Optuna chooses."""
