"""AgentDojo as an environment: tasks, attacks, defenses and rewards."""
