"""What the backends over the network share: addresses, tokens, one HTTP client, and the rule about money.

No backend by itself: `openai` and `replicate` are made of it, and so may be others.
"""
