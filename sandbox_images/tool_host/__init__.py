"""The process inside a sandbox: it loads a toolset once and forks one child per episode."""
