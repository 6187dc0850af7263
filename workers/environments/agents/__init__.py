"""Agents that bring their own loop: how each is called, its config files, its version, its image."""
