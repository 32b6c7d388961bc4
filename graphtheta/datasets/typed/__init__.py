"""Readers of graphs of several node types and relations."""
