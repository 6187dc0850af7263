"""Measurements of Kumite, each beside a peer that is measured in the same run. Run with `python -m`."""
