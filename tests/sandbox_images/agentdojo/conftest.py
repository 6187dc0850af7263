import tests.helpers.agentdojo  # noqa: F401 - before any test here imports of AgentDojo
