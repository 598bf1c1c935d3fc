"""Matrix products, batched or with a packed constant."""
