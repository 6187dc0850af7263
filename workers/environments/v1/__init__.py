"""Environments of verifiers' v1 API: tasksets, played by a chat harness as a loop in the worker."""
