"""Who is measured: Kumite, and those who do the same work in the ways that are usual elsewhere."""
