"""A context for image builders."""
