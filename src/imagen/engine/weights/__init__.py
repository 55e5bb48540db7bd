"""Weights fetched to where an engine looks for them."""
