"""New weights for a policy that is being served: what is taken, and how it comes into use."""
