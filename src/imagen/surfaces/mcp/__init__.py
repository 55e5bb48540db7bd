"""The door for agents: five verbs over the Model Context Protocol, on standard input and output or over HTTP.

`verbs.py` is what the verbs do, `shapes.py` what they take and answer, `tools.py` how the protocol carries it.
Nothing here is loaded by any other command, and the protocol's library only by `tools.py` and the two ways in.
"""
