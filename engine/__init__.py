"""The gRPC engine: graph and parameter services over partitioned stores. Nothing is built yet."""
