"""Runs held against each other, episode by episode."""
