"""The door for programs made for the OpenAI Images API.

Read on in this order: `routes.py` (the routes), `request.py` (what they send, as a draft of ours), `stream.py` (how
they are told in a stream), `pictures.py` and `models.py` (the shapes). Who waits for which job, and how an answer that
is no stream is kept alive, is in `foreign/`, as for every such door.
"""
