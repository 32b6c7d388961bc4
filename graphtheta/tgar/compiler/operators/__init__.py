"""Element-wise operators of the compiler's language."""
