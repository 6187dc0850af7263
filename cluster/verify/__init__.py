"""`kumite verify`: what must hold in a dataset for a trainer to rely on it, recomputed from the files."""
