"""Jobs followed: one reader of the store for all who watch."""
