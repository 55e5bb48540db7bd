"""Jobs drawn: a worker claims one, the runner drives its backend, and what comes out is recorded."""
