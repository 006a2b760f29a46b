"""A training step beside those of other systems: `make bench-sae`."""
