"""Convolutions that transform tiles, multiply matrices and transform back: Winograd's and Fourier's."""
