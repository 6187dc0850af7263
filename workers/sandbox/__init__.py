"""The sandbox a worker owns: one container (or process), many sessions, one pipe."""
