"""Quantisation: ranges from data, pairs of QuantizeLinear and DequantizeLinear, stored weights, a report."""
