"""The embedded engineer: a search behind the interface of a chat model. It reads prompts, nothing else."""
