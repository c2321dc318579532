"""RPCs to operations and back: arguments in, messages out, nothing else."""
