"""Annotations of fields that many commands share; the docstring under each field stays the command's own."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import tyro

ModelName: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""The positional MODEL: Hub id, directory, GGUF file or bundled name."""
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
"""What weights are loaded as; `auto` keeps the stored dtype."""
