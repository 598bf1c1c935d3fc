"""What a board is given: the image of a model's regions, the driver that runs them, the host's glue."""
