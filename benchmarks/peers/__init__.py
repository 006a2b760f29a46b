"""`make bench-peers`: garner beside the systems that people use for the same thing, each in its own environment."""
