"""Counter-based random numbers, permutations and edge sampling."""
