"""vLLM's own parser, fed from Python names and values instead of a command line."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from workers.engine import StartFailed


def parse(args: Mapping[str, Any]) -> Namespace:
    """The namespace that ``vllm serve`` would have made. Raises StartFailed on a bad value."""
    parser = make_arg_parser(_Parser(prog="engine_args", exit_on_error=False))
    actions = {action.dest: action for action in parser._actions}
    words = [
        word
        for name, value in args.items()
        if value is not None
        for word in _words(actions[name], value)
    ]
    try:
        namespace = parser.parse_args(words)
        validate_parsed_serve_args(namespace)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise StartFailed(f"engine_args: {error}") from error
    return namespace  # type: ignore[no-any-return]


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> None:
        raise ValueError(message)


def _words(action: argparse.Action, value: Any) -> Iterator[str]:
    flag = next(name for name in action.option_strings if name.startswith("--"))
    if isinstance(action, argparse.BooleanOptionalAction) and isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
    elif action.nargs == 0:
        if value:
            yield flag
    elif isinstance(value, list | tuple):
        yield flag
        yield from (_word(item) for item in value)
    else:
        yield f"{flag}={_word(value)}"


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)
