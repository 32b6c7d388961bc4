"""Messages of the engine: the protocol's constants, Arrow tables, and chunks of responses."""
