"""Intermediate representation: terms and kernels."""
