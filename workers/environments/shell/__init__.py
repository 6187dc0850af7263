"""Shell tasks as an environment: a workspace, a shell, and hidden tests."""
