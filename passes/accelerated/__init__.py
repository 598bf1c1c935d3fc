"""What `accelerate` knows: one file per kind of layer that an accelerator of 8-bit sums computes."""
