"""What one worker holds of a partitioned graph."""
