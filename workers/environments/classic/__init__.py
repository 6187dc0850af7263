"""Environments of verifiers' classic API, played and scored as verifiers does it."""
