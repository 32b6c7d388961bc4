"""What commands share: help, tables and progress bars on a terminal."""
