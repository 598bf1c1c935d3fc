"""From kernel calls to a plan: which launches run, which tensors share bytes, and where everything lies."""
