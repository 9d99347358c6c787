# SPDX-License-Identifier: Apache-2.0
"""The configuration for commands: loading, and finding a model or similar names.

This module loads none of the libraries that act on a model.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

from sparkd.adapters.files.config_files import load_from
from sparkd.core.errors import NotFound
from sparkd.core.http import routing
from sparkd.core.model import Config, ModelSpec
from sparkd.core.names import Layout

_NEAR_COUNT = 3


def load() -> Config:
    """The configuration, read as the daemon reads it."""
    return load_from(os.environ, layout())


def layout() -> Layout:
    """The locations of sparkd's files, which the daemon and sparkctl share."""
    return Layout.of(os.environ)


def find(config: Config, model_id: str) -> ModelSpec:
    """The model's entry. Raises NotFound, or Misconfigured when the entry is broken."""
    try:
        return routing.lookup(config, model_id)
    except NotFound:
        raise unknown(model_id, names(config)) from None


def id_of(config: Config, name: str) -> str:
    """The id of the model that has this alias, or the name unchanged."""
    return config.aliases.get(name, name)


def names(config: Config) -> list[str]:
    """Every model id in the catalog, including broken entries."""
    return sorted({*config.models, *config.broken})


def unknown(model_id: str, known: Iterable[str]) -> NotFound:
    """The error for an unknown model, with the nearest names in its hint."""
    close = difflib.get_close_matches(model_id, list(known), n=_NEAR_COUNT, cutoff=0.6)
    near = " or ".join([", ".join(close[:-1]), close[-1]] if close[1:] else close)
    hint = f"did you mean {near}?" if near else "sparkctl models lists the models"
    return NotFound(f"there is no model {model_id!r}", hint=hint, code="model_not_found")
