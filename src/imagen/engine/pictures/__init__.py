"""Pictures after they are drawn: found, sent, told of beside them, drawn again, deleted."""
