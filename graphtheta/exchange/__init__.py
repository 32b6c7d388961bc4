"""Exchange of rows between masters and mirrors, with autograd."""
