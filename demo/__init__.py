"""What Millrace does, in one command: `make demo`."""
