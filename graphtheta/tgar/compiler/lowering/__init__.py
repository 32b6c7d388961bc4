"""From a traced expression to terms."""
