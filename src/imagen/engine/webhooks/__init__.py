"""Whom webhooks tell, what they are told, and which addresses they may ask."""
