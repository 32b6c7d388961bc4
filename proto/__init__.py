"""Protocol buffers of the engine, and their stubs. Nothing is built yet."""
