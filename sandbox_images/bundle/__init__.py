"""The tool host with a Python of its own, for images that bring neither."""
