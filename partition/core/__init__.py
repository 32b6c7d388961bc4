"""Building blocks of partitioners: interfaces, edge streams, capacities, threads."""
