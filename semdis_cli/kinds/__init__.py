"""Kinds of files, told by their first bytes."""
