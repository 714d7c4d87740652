"""The verbs under test: how they end, and how they go on."""
