"""Hot swap under load."""
