"""A shell, Python and files in a scratch workspace as a toolset: what runs inside the container."""
