"""Accuracy won back without labels: equalised channels, corrected biases, weights rounded together."""
