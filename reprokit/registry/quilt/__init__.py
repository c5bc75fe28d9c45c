"""Registries of Quilt's: read in place, and written so that its client and catalog read them."""
