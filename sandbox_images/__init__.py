"""What runs inside a sandbox container, and the builder of its images."""
