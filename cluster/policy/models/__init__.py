"""Which model a policy serves: the packaged one, a folder, or one of the Hugging Face hub."""
