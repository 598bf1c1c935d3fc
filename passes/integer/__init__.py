"""What `lower-quantization` and `convert-signedness` are made of."""
