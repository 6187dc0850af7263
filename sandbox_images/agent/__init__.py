"""Agents in a shell workspace: programs of anybody's, which the session starts, watches and ends."""
