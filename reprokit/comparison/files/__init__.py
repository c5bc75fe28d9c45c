"""Two files of one name, by their format."""
