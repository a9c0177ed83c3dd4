"""`python -m server` is `millrace`."""

from server.cli import main

main()
