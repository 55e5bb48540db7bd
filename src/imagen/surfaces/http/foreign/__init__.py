"""What the doors for programs of others share: the fields they read, who waits there, and how it ends."""
