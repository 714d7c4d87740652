"""Untrusted bytes, and the readers of the store that are put to them."""
