"""What tests that compile for a GPU need; with CI set, they fail where it is missing."""

from __future__ import annotations

import shutil

import pytest

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
