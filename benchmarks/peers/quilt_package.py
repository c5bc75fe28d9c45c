"""Version a folder with quilt3, run by quilt3's own environment: `save FOLDER REGISTRY` or `restore REGISTRY FOLDER`.

quilt3 refuses `push` to a folder, so `build` is all it can do locally: it hashes the files and writes a manifest that
points at them. The bytes themselves are not stored, and `fetch` copies them from where they were.
"""

import sys

import quilt3

operation, source, target = sys.argv[1:]
if operation == "save":
    quilt3.Package().set_dir("/", source).build("benchmark/data", registry=f"file://{target}")
else:
    quilt3.Package.browse("benchmark/data", registry=f"file://{source}").fetch(target)
