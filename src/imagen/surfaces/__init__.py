"""Who asks: thin edges over the app."""
