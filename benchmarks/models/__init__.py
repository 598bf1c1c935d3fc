"""Networks for tests and measurements alike: `networks` are built, `light` and `zoo` are other people's.

`real` has all of them under one roof, `reference` their exact answers. Nothing here imports from tests.
"""
