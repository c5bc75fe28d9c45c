"""The artefacts: recipe, lock, manifest, record, verdict. Frozen data; reads no files."""
