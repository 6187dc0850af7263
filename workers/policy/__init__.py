"""The worker's clients of the policy: what is sent, what is answered, and exact tokens."""
