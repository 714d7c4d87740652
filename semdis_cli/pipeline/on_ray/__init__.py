"""A Ray cluster that shares a run: the driver, and the actors that do what processes of one machine do."""
