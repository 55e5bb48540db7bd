"""The HTTP door: jobs, events, series and pictures for programs on this and other machines."""
