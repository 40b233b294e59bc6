"""Many branches: who is behind, the work in worker processes, the outcomes together. Floor 6."""
