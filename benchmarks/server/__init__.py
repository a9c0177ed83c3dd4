"""What the server costs: its batcher, its hand-overs, whole requests beside other servers."""
