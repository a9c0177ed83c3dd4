"""What the server itself costs: its batcher, its hand-overs, whole requests beside other servers."""
