"""Write some of the demo's digits as a C header: digits_header.py mnist_held_out.npz digits.h [COUNT]"""

import sys
from pathlib import Path

import numpy as np


def header(archive: Path, count: int) -> str:
    """The first `count` digits as `digits[DIGITS][784]` and `digit_labels[DIGITS]`."""
    with np.load(archive) as data:
        images, labels = data["image"][:count].reshape(count, -1), data["labels"][:count]
    rows = [f"    {{{', '.join(map(str, image))}}}," for image in images.tolist()]
    return "\n".join(
        [
            "/* Written by digits_header.py: handwritten digits of the MNIST database. */",
            f"enum {{ DIGITS = {count} }};",
            "static const unsigned char digits[DIGITS][28 * 28] = {",
            *rows,
            "};",
            f"static const int digit_labels[DIGITS] = {{{', '.join(map(str, labels.tolist()))}}};",
            "",
        ]
    )


if __name__ == "__main__":
    source, destination, *rest = sys.argv[1:]
    Path(destination).write_text(header(Path(source), int(rest[0]) if rest else 10))
