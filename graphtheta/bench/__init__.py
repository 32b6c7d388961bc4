"""Measuring: kernels, epochs, partitioners and several workers, and which of two runs was faster.

What `graphtheta bench` runs, and what `benchmarks/` measures the peers with. A record is a line of
JSON; see `graphtheta.bench.record`.
"""
