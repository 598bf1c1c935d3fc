"""The transformations, one per file; `rtcc passes` lists them.

Import as `rtcc.passes`; importing this package loads no pass.
"""

if __name__ != "rtcc.passes":
    raise ImportError(
        f"this package was imported as {__name__!r}, which would load a second copy of it; "
        "write `import rtcc.passes` instead"
    )
