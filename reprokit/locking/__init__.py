"""World → lock: code, data and environment pinned."""
