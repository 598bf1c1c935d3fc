"""Linear layers as quantisation and pruning see them: a weight that is constant, and sums of products."""
