"""What a run has to play: tasks, samples, iterations, and what a resumed run has left."""
