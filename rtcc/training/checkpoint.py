"""Where training stands, in a file: written whole, and only gone on from by the same training."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.system.files import replace_file
from rtcc.text import print_module

VERSION = 1

State = dict[str, Any]


def identity_of(modules: Sequence[Module | None], *others: object) -> str:
    """A hash of everything that a result depends on: the models, and what else is given, as text."""
    digest = hashlib.sha256()
    for module in modules:
        if module is not None:
            digest.update(print_module(module).encode())
            for constant in module.constants.values():
                digest.update(constant.sha256.encode())
        digest.update(b"|")
    digest.update(repr(others).encode())
    return digest.hexdigest()


def write_checkpoint(path: Path, identity: str, state: State) -> None:
    """Put the state there; an old one stays until the new one is whole."""
    stream = io.BytesIO()
    torch.save({"version": VERSION, "identity": identity, **state}, stream)
    replace_file(path, stream.getbuffer())


def read_checkpoint(path: Path, identity: str) -> State:
    """The state that was written; InvalidInput: no-checkpoint, checkpoint-damaged, checkpoint-other."""
    if not path.is_file():
        message = f"there is no checkpoint {str(path)!r} to go on from"
        raise InvalidInput("no-checkpoint", message, hint="leave --resume out to start anew")
    try:
        state: State = torch.load(path, weights_only=True)
        found = (state["version"], state["identity"])
    except Exception as error:  # what torch raises for a broken file is of many types
        message = f"no checkpoint can be read there: {type(error).__name__}"
        hint = "leave --resume out to start anew"
        raise InvalidInput("checkpoint-damaged", message, where=str(path), hint=hint) from error
    if found != (VERSION, identity):
        message = "the checkpoint is of other models, data or options"
        hint = "give what the interrupted command was given, or leave --resume out to start anew"
        raise InvalidInput("checkpoint-other", message, where=str(path), hint=hint)
    return state
