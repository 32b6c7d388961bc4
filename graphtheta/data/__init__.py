"""Input graphs: tables of nodes and edges, their columns, and the in-memory graph."""
