"""The errors a user can cause.  An internal fault is an ``assert``, never one of these."""

from __future__ import annotations


class RtccError(Exception):
    """An error a user can cause and mend.

    ``code`` is kebab-case and stable ("unknown-operator"); ``message`` says what was found and what was
    expected; ``where`` is an ONNX node or ``file:line:col``; ``hint`` says what to do about it.
    """

    def __init__(self, code: str, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.where is not None:
            lines.append(f"  at: {self.where}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickling keeps every field: errors travel between worker processes."""
        return (_rebuild, (type(self), self.code, self.message, self.where, self.hint))


def _rebuild(
    kind: type[RtccError], code: str, message: str, where: str | None, hint: str | None
) -> RtccError:
    return kind(code, message, where=where, hint=hint)


class InvalidModel(RtccError):
    """The model itself is wrong: broken protobuf, shapes that disagree, missing values."""


class Unsupported(RtccError):
    """The model is valid but this target, operator form or option combination is not supported."""


class InvalidInput(RtccError):
    """An array, option or path given by the user does not fit what was expected."""


class ParseError(RtccError):
    """Text IR or pipeline text that does not parse."""


class VerifyError(RtccError):
    """A module breaks one of the verifier's invariants."""


class ToolMissing(RtccError):
    """An external tool (compiler, linker, simulator) was not found; the hint says how to get it."""


class CodegenError(RtccError):
    """Machine code for a kernel could not be made; the message names the kernel."""


class ArtifactError(RtccError):
    """An artefact could not be linked, loaded or run."""
