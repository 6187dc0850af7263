"""The processes in which a worker runs environment code, and the watch over them."""
