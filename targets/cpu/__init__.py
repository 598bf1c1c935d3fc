"""What all targets that are CPUs with vector registers share; each adds its own CPUs and their facts."""
