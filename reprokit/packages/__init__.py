"""Packages: build, read, install and copy versions."""
