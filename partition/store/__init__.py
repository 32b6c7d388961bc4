"""The partitioned store on disk: manifest, parts, index and communities."""
