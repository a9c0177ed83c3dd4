"""Programs that keep the project in order; not part of what is installed."""
