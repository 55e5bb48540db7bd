"""Webhooks: other programs are told when a job or a series has ended, signed, and until they heard it."""
