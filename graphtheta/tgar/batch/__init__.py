"""What a layer computes on: blocks, views and the neighbourhoods they are built from."""
