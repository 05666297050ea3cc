"""Dialects: the wire formats of upstream servers, and the one way to reach them."""
