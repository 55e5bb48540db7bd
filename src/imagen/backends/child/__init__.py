"""A process of its own for a backend: what it loads is really given back, and what kills it kills nothing else.

No backend by itself: one that loads weights into memory is handed to `Child` by its registration, and is then run there
unchanged. Read on in this order: `parent.py` (which process draws what), `process.py` (one process, seen from here),
`main.py` (the same, from inside), `frames.py` (what goes between them), `last_words.py` (why one died).
"""

# What `backends: {NAME: …}` may say about the process, beside the settings of the backend that runs in it.
SETTINGS = frozenset({"ready", "unload_after_s", "cancel_s", "stall_s", "memory_limit_mib", "environment"})
