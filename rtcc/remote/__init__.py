"""Running artefacts on another machine, over ssh."""

from rtcc.remote.remote import Remote

__all__ = ["Remote"]
