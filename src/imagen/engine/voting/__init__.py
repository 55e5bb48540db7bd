"""Blind votes on pictures, and what they say of the models."""
