"""Communication between workers: communicators, exchange plans, sync and merge as autograd."""
