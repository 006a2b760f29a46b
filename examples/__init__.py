"""A small language with known latents, models trained on it, and recipes that find them again."""
