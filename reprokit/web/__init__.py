"""The page: a registry in a browser on this machine. Reads alone, and needs the extra `ui`."""
