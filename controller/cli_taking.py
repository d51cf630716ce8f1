"""Options that several commands share, written once: a command line is read off a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

_NOTHING: Mapping[str, Any] = {}


def taking(
    run: Any,
    command: Callable[..., object],
    handed: int = 0,
    later: Mapping[str, Any] = _NOTHING,
) -> Callable[..., None]:
    """``run`` as typer is to see it: what ``command`` takes, but for the first it is ``handed``,
    then its own. ``later``: what the command is annotated with and does not import."""
    hints = get_type_hints(command, localns=dict(later), include_extras=True)
    own = list(signature(command).parameters.values())[handed:]
    common = signature(run, eval_str=True).parameters.values()
    taken = [each.replace(annotation=hints[each.name]) for each in own]
    taken += [each for each in common if each.kind is not Parameter.VAR_KEYWORD]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = Signature(taken)
    run.__annotations__ = {each.name: each.annotation for each in taken}
    return run  # type: ignore[no-any-return]
