"""What is remembered: jobs, series, events and images, in one database and one folder or bucket."""
