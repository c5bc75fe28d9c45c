"""Files of packages laid over local paths, without writing one."""
