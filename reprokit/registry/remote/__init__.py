"""Registries in object stores: signs of life and gc without a lock that anybody could hold."""
