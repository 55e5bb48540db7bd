"""The exit codes that come from no error: what shells expect of a program that was ended from outside."""

INTERRUPTED = 130  # by Ctrl-C
BROKEN_PIPE = 141  # by a reader that went away
TERMINATED = 143  # by SIGTERM
