"""Passwords, signed tokens, secrets, and the refusal to start unsafely."""
