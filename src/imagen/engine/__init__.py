"""Who drives: one job on one backend, workers that claim jobs, and what is made of the results."""
