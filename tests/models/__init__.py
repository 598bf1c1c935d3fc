"""Models for the tests: built small, fetched from packages, generated; and exact answers to compare with."""
