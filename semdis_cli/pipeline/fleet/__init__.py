"""Processes of one machine that share a run: the processes, what is sent to them, and their jobs."""
