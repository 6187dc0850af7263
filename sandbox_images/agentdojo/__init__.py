"""AgentDojo's suites as a toolset: what runs inside the container."""
