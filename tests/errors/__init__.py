"""Tests of what users are told when something is wrong."""
