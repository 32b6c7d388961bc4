"""Placement of cut edges: in the part of their source or of their destination."""
