"""`parmflow store`: look after the QM store, and carry results in and out."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_codes
from flows.report import print_json
from flows.request import chosen_store, store_place
from pipeline.errors import UsageError
from pipeline.store import QMStore
from pipeline.store.care import Statistics, clean, count, verify
from pipeline.store.database import is_there
from pipeline.store.exchange import Imported, check_suffix, export_store, import_entries, import_file
from pipeline.store.qcarchive import SERVER, dataset_named, open_client, read_dataset

app = typer.Typer(help="Look after the QM store; carry results in and out.", no_args_is_help=True)

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="QM store, or postgresql://host/db of one; default in your data folder.",
    ),
]
_MOST_REFUSALS = 20
"""sentences printed"""
Json = Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")]


def _existing(store: str | None) -> QMStore:
    chosen = chosen_store(store)
    if not is_there(store_place(chosen)):
        raise UsageError(f"{chosen}: no QM store here; give --store")
    return QMStore(store_place(chosen))


@app.command(name="verify")
def verify_command(store: Store = None, as_json: Json = False) -> None:
    """Read every result and check its hash, its key and the file; exit 1 when something is damaged."""
    with exit_codes(), _existing(store) as opened:
        found = verify(opened)
        if as_json:
            print_json(dataclasses.asdict(found) | {"is_whole": found.is_whole})
        else:
            for key, wrong in found.damaged:
                print(f"{key} {wrong}")
            for complaint in found.complaints:
                print(f"the file: {complaint}")
            print(f"{found.n_results} results, {len(found.damaged)} damaged.")
        raise typer.Exit(0 if found.is_whole else 1)


@app.command()
def gc(
    store: Store = None,
    drop_backups: Annotated[
        bool, typer.Option("--drop-backups", help="Also the copies made before a change of version.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove damaged results, leases of dead runners and unfinished copies, and give the space back."""
    with exit_codes(), _existing(store) as opened:
        cleaned = clean(opened, keep_backups=not drop_backups)
        if as_json:
            print_json(dataclasses.asdict(cleaned))
        else:
            print(
                f"removed: {cleaned.n_damaged} damaged results, {cleaned.n_dead_leases} leases of dead "
                f"runners, {cleaned.n_files} copies; {_megabytes(cleaned.bytes_before)} before, "
                f"{_megabytes(cleaned.bytes_after)} now."
            )


@app.command()
def stats(store: Store = None, as_json: Json = False) -> None:
    """Count what is in the store: results by level, attempts by ending, SCF rungs."""
    with exit_codes(), _existing(store) as opened:
        found = count(opened)
        if as_json:
            print_json(dataclasses.asdict(found))
        else:
            print("\n".join(_lines_of(found)))


def _lines_of(found: Statistics) -> list[str]:
    lines = [f"{found.n_results} results of {found.n_molecules} molecules, {_megabytes(found.bytes)}."]
    lines += [
        f"  {one.n_results:8d}  {one.level} {one.driver} ({one.program}), {one.n_molecules} molecules"
        for one in found.levels
    ]
    if found.attempts:
        lines.append("attempts, hours:")
        lines += [f"  {n:8d}  {kind}, {hours:.2f} h" for kind, n, hours in found.attempts]
    if found.rungs:
        lines.append("SCF converged at: " + ", ".join(f"{rung} {n}" for rung, n in found.rungs))
    if found.n_flagged:
        lines.append(f"{found.n_flagged} results are flagged and not trained on.")
    if found.n_leases:
        lines.append(f"{found.n_leases} calculations are being made now.")
    return lines


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


@app.command(name="export")
def export_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".parquet for pandas, .jsonl or .jsonl.gz for QCSchema.")
    ],
    store: Store = None,
    level: Annotated[
        str | None, typer.Option("--level", metavar="LEVEL", help="Only this one, e.g. b3lyp-d3bj/dzvp.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the results as Parquet, or as QCSchema JSON."""
    with exit_codes(), _existing(store) as opened:
        done = export_store(opened, file.absolute(), level)
        if as_json:
            print_json(dataclasses.asdict(done))
        else:
            left = f", {done.n_left_out} without elements left out" if done.n_left_out else ""
            print(f"{done.n_written} results written to {file}{left}.")


@app.command(name="import")
def import_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="Our export, tables of QM references, QCSchema or QCArchive JSON."
        ),
    ] = None,
    qcarchive: Annotated[
        str | None,
        typer.Option(
            "--qcarchive", metavar="KIND:NAME", help="A data set, e.g. torsiondrive:NAME; needs qcportal."
        ),
    ] = None,
    server: Annotated[str, typer.Option("--server", metavar="URL", help="Of QCArchive.")] = SERVER,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Take results in; those already there stay as they are; exit 3 when some could not be used."""
    with exit_codes():
        if not files and not qcarchive:
            raise UsageError("nothing to import: give files, or --qcarchive KIND:NAME")
        for file in files or ():
            check_suffix(file)
            if not file.is_file():
                raise UsageError(f"{file}: no such file")
        dataset = dataset_named(qcarchive) if qcarchive else None
        client = open_client(server) if dataset else None
        imported: dict[str, Imported] = {}
        with QMStore(store_place(chosen_store(store))) as opened:
            for file in files or ():
                imported[str(file)] = import_file(opened, file.absolute())
            if dataset:
                imported[":".join(dataset)] = import_entries(opened, read_dataset(client, *dataset))
        _print_imported(imported, as_json=as_json)
        raise typer.Exit(3 if any(one.refused for one in imported.values()) else 0)


def _print_imported(imported: dict[str, Imported], *, as_json: bool) -> None:
    if as_json:
        print_json({source: dataclasses.asdict(one) for source, one in imported.items()})
        return
    for source, one in imported.items():
        print(f"{source}: {one.n_read} results read, {one.n_new} new, {len(one.refused)} refused.")
        print("".join(f"  {sentence}\n" for sentence in one.refused[:_MOST_REFUSALS]), end="")
        if len(one.refused) > _MOST_REFUSALS:
            print(f"  and {len(one.refused) - _MOST_REFUSALS} more; --json lists all")
