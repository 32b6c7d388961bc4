"""The intermediate representation: terms and kernels."""
