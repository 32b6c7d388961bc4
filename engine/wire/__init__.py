"""What travels over gRPC: chunks, Arrow tables, statuses and limits."""
