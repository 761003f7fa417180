"""`parmflow models`: which retrained model is in use, and changing that."""

from pathlib import Path
from typing import Annotated

import typer

from flows import registry
from flows.exit_codes import exit_codes
from flows.report import print_json

app = typer.Typer(help="Retrained models: list, promote, roll back.", no_args_is_help=True)

Registry = Annotated[
    Path, typer.Option("--registry", metavar="DIR", help="Folder of the service's retrained models.")
]
Json = Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")]
SHIPPED = "the shipped default"


@app.command(name="list")
def list_models(folder: Registry, as_json: Json = False) -> None:
    """Say which models are kept, and which one is in use and why."""
    with exit_codes():
        in_use = registry.current(folder)
        events = [vars(promotion) for promotion in registry.history(folder)]
        if as_json:
            in_use_name = in_use.name if in_use else ""
            print_json({"models": registry.names(folder), "in_use": in_use_name, "history": events})
            return
        if not registry.names(folder):
            print(f"{folder} holds no retrained models.")
        for name in registry.names(folder):
            print(f"{'*' if in_use and in_use.name == name else ' '} {name}")
        print(f"{' ' if in_use else '*'} {SHIPPED}")
        for event in events:
            print(f"  {event['at']}  {event['model'] or SHIPPED}: {event['why']}")


@app.command()
def promote(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Its name as `models list` says it.")],
    folder: Registry,
) -> None:
    """Take a model into use."""
    with exit_codes():
        registry.promote(folder, name, why="by hand")
        print(f"{name} is in use.")


@app.command()
def rollback(folder: Registry) -> None:
    """Go back to the model that was in use before the present one."""
    with exit_codes():
        print(f"{registry.roll_back(folder) or SHIPPED} is in use again.")
