"""The door for programs made for the A1111 API.

Read on in this order: `routes.py` (the routes), `request.py` (what they send, as a draft of ours), `callers.py` (what
is remembered of each caller), `answer.py` (what they are told), `text.py` (the text inside pictures), `lists.py` (the
rest). Who waits, and how a long answer is kept alive, is in `foreign/`.
"""
