"""The verbs: how the data flows, top to bottom, with no terminal."""
