"""Calibration: distributions of values over samples, and the ranges chosen from them."""
