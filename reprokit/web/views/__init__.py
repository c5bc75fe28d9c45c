"""One module a page: what is asked of it, and what it shows."""
