"""Convolutions that sum products of taps, without a transform: direct, depthwise, over plain data, im2col."""
