"""Ferrule: a production backend for Python, in one piece."""
