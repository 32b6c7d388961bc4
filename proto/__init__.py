"""Protocol buffers of the engine and their generated Python stubs (`make proto`).

A change that older clients or servers would misread needs another `PROTOCOL_VERSION` in
`graphtheta.engine.wire.protocol`: the handshake refuses other versions in one line.
"""
