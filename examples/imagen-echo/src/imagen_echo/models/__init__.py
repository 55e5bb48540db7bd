"""The models this package brings: one folder each, all data."""
