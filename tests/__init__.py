"""The tests, and the kits that several of them share."""

# Somebody's own ComfyUI may listen where it usually does; no test that does not mean it may find it there.
NOWHERE = "http://127.0.0.1:9"
