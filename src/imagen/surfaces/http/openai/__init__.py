"""The door for programs made for the OpenAI Images API.

Read on in this order: `door.py` (the routes), `request.py` (what they send, as a draft of ours), `visits.py` (who waits
for which job), `answer.py` and `stream.py` (the two ways to be told), `pictures.py` and `models.py` (the shapes).
"""
