"""Another imagen server as a door: the same verbs as the app of this machine, asked for over its public HTTP API."""
