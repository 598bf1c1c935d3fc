"""Code generation targets: one folder per target, and `tvm`, the bridge to Apache TVM that they share.

Import as `rtcc.targets`; importing this package loads no target and no TVM.
"""

if __name__ != "rtcc.targets":
    raise ImportError(
        f"this package was imported as {__name__!r}, which would load a second copy of it; "
        "write `import rtcc.targets` instead"
    )
