"""The gateway: the model's HTTP routes for an agent in a sandbox, served on the one pipe that it has."""
