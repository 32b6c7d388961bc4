"""Protocol buffers of the engine, and their stubs: `make proto` writes these anew.

A package a version of the protocol; a change that old clients would misread is a new version.
"""
