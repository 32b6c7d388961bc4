"""Passes over terms and kernels: differentiation, commuting, and programs of kernels."""
