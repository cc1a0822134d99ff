"""The applications that are measured: the same table, the same routes, different ways."""
