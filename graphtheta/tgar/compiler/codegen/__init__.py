"""From terms to compiled Numba kernels."""
