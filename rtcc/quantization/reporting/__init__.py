"""What quantising did to a model, in tables, JSON and pictures."""
