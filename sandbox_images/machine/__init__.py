"""A machine for programs of a worker's: started, watched and ended in a container, with their files."""
