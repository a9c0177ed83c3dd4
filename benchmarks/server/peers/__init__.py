"""The servers that Millrace is measured beside, each a script that reads PORT and MODEL."""
