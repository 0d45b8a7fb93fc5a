"""One training on Ray: the cluster, the data, the workers, and what they outlive."""
