"""Code generation: kernels become machine code."""
