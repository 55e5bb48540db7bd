"""What PostgreSQL is asked in one statement, where SQLite is asked several: the next job, and what a worker says."""
