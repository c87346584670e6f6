"""Several processes of one run: how many and where, started and watched, and what they add up to."""
