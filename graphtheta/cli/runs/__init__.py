"""Commands about runs that were trained, and about several runs together."""
