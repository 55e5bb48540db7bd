"""The contract kit: what every backend must keep, ready for an outside package's tests."""
