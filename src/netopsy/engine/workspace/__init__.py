"""Where long work keeps its checkpoints, and what a checkpoint depends on."""
