"""What partitioners are built from: interfaces, edge streams, capacities, worker threads."""
