"""Transformations of terms: reordering, differentiation, programs."""
