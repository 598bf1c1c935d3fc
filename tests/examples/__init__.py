"""Every example and benchmark script is run."""
