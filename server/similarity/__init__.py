"""Collections bound to models: pictures become vectors, and a swap never mixes vector spaces."""
