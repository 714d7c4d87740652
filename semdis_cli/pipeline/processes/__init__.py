"""Processes beside this one: how they begin, what all of them share, and those that read and write images."""
