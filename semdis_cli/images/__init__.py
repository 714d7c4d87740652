"""Images: a source's bytes to pixels of the size that is encoded."""
