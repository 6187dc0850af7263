"""The command `kumite`: its subcommands, and what only they need."""
