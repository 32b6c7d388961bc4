"""Measurements of kernels, epochs, partitioners and scaling, for `graphtheta bench`.

A measurement is a record, which is written as a line of JSON: see `graphtheta.bench.record`. The
scripts in `benchmarks/`, which compare with other libraries, write records too.
"""
