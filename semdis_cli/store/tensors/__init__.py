"""Columns whose values are tensors: files of a set's own beside its shards."""
