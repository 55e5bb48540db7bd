"""The page: files for a browser, and the routes that serve them."""
