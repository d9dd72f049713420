"""The one training loop, its checkpoints, its cost meter, and the search over parameters."""
