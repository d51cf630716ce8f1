"""Commands that need no running fleet: validate, plan, doctor, models, keys."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli_common import FAILED, USAGE, Json
from controller.config_errors import ConfigError

if TYPE_CHECKING:
    from controller.settings import Settings

_PANEL = "Setting up"
Config = Annotated[Path, typer.Argument(help="A fleet.yaml.", metavar="CONFIG")]

app = typer.Typer()
models = typer.Typer(help="Models on disk.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(models, name="models", rich_help_panel=_PANEL)
app.add_typer(keys, name="keys", rich_help_panel=_PANEL)


class Role(StrEnum):
    inference = "inference"
    admin = "admin"


@app.command(rich_help_panel=_PANEL)
def validate(config: Config, json: Json = False) -> None:
    """Check a fleet.yaml: every problem, with its key path and reason."""
    from controller.terminal import print_json, say

    settings = _loaded(config, json)
    names = [model.spec.name for model in settings.models]
    if json:
        print_json({"valid": True, "device": settings.device, "models": names, "problems": []})
    else:
        say(f"{config}: valid; {settings.device}, {len(names)} models: {', '.join(names)}")


def _loaded(config: Path, json: bool) -> Settings:
    """As load; with ``json`` the problems are printed as JSON, too."""
    from controller.settings import load
    from controller.terminal import print_json

    try:
        return load(config)
    except ConfigError as error:
        if json:
            print_json({"valid": False, "problems": error.problems})
            raise typer.Exit(USAGE) from error
        raise


@app.command(rich_help_panel=_PANEL)
def plan(config: Config, json: Json = False) -> None:
    """Does it fit: weights and KV by model, what can be awake together, memory of sleepers."""
    from controller import plan as fleet_plan
    from controller.machine import this_machine
    from controller.plan_table import plan_table
    from controller.terminal import complain, out, print_json

    found = fleet_plan.plan(_loaded(config, json), this_machine())
    if json:
        print_json(found)
    else:
        out.print(plan_table(found))
        for problem in found.problems:
            complain(problem)
    if found.problems:
        raise typer.Exit(FAILED)


@app.command(rich_help_panel=_PANEL)
def doctor(
    config: Annotated[Path | None, typer.Argument(help="A fleet.yaml.", metavar="CONFIG")] = None,
    json: Json = False,
) -> None:
    """Look at this machine: device, driver, memory limits, ports, versions."""
    from controller.doctor import Verdict, examine
    from controller.terminal import out, print_json

    findings = examine(_loaded(config, json) if config else None)
    if json:
        print_json({"findings": findings})
    else:
        out.print(_findings_table(findings))
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(FAILED)


def _findings_table(findings: Any) -> Any:
    from rich.text import Text

    from controller.terminal import columns

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = columns("", "WHAT", "FOUND", show_header=False)
    table.columns[2].no_wrap = False
    for finding in findings:
        word = finding.verdict.name.lower()
        table.add_row(Text(word, colours[word]), finding.what, Text(finding.found))
    return table


@models.command("prepare")
def prepare(
    directory: Annotated[Path, typer.Argument(help="Made if it is missing.", metavar="DIR")],
    json: Json = False,
) -> None:
    """Make the demo's models out of installed packages."""
    from controller.terminal import complain, err, print_json
    from workers.demo_models import PackageMissing
    from workers.demo_models import prepare as prepare_models

    try:
        found = prepare_models(directory, lambda line: err.print(line, markup=False))
    except PackageMissing as error:
        complain(str(error))
        raise typer.Exit(FAILED) from error
    if json:
        print_json({name: str(path) for name, path in found.items()})


@keys.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is.", metavar="NAME")],
    role: Annotated[list[Role] | None, typer.Option(help="Several: give it again.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose conversations it may see.")] = "",
    json: Json = False,
) -> None:
    """Make a key: shown once, and the hashed entry for the configuration."""
    from controller.keyring import new_key
    from controller.terminal import err, print_json, say

    roles = [r.value for r in role or [Role.inference]]
    key, entry = new_key(name, tenant, roles)
    fields = {"name": name, "tenant": tenant, "roles": roles, "sha256": entry.sha256}
    if json:
        print_json({"key": key, "entry": fields})
        return
    err.print("The key, shown this once:", style="dim")
    say(key)
    err.print("Its entry, for server.keys, a keys_file or TORPOR_KEYS:", style="dim")
    say(_as_yaml(fields))


def _as_yaml(fields: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump([fields], sort_keys=False)).rstrip()
