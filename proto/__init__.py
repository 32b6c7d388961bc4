"""Protocol buffers of the engine and their generated Python stubs (`make proto`).

Each version of the protocol is a package. A change that old clients would misread needs a new one.
"""
