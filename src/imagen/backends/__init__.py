"""Who draws: one adapter per kind of engine. They never import each other."""
