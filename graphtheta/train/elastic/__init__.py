"""Training by groups of workers that come and go, with the parameters at a service."""
