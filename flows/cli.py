"""The command `parmflow`: one command per thing that people do with a ligand library."""

import contextlib
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from flows import batch, doctor, models_commands, qm_only, store_commands
from flows.exit_codes import ending_with_its_reader, exit_codes
from flows.progress import lines_on_stderr, watch_on_stderr
from flows.report import print_json, print_records, print_summary, records_asked_for, summary
from flows.request import Request, chosen_store, parse_duration, settings_from, split_formats
from flows.store_commands import Json, Store
from models import train as training
from pipeline.database import check_address
from pipeline.errors import UsageError

app = typer.Typer(
    help="Ligand libraries in; proven OpenFF, Amber, GROMACS, LAMMPS and OpenMM files out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(store_commands.app, name="store")
app.add_typer(models_commands.app, name="models")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"parmflow {version('parmflow')}")
        raise typer.Exit


@app.callback()
def begin(
    _: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Ligand libraries in; proven OpenFF, Amber, GROMACS, LAMMPS and OpenMM files out."""
    os.umask(os.umask(0o077) | 0o002)  # nothing that we make is for everybody to write


_LIBRARY_HELP = "Library files: .smi, .sdf, .mol2, .csv, each also as .gz."
_SPEC_HELP = "QM level: openff-default (B3LYP-D3BJ/DZVP), fast (GFN2-xTB), quality, composite, or in words."

Libraries = Annotated[list[Path], typer.Argument(metavar="LIBRARY", help=_LIBRARY_HELP)]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Output folder; a run there is resumed.")]
Run = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML.")]
Formats = Annotated[
    str | None,
    typer.Option("--formats", metavar="LIST", help="Files to write, e.g. offxml,amber; default all."),
]
Constraints = Annotated[
    bool | None,
    typer.Option("--constraints", help="OFFXML files that constrain the bonds to hydrogen."),
]
Check = Annotated[
    str | None,
    typer.Option("--check", metavar="WHO", help="Who reads the files back: in-process (default) or all."),
]
ModelName = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Shipped weights, `name/version`, or a folder.")
]
FormName = Annotated[
    str | None,
    typer.Option(
        "--form", metavar="NAME", help="class1 (default), or class2: with couplings, in fewer formats."
    ),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", metavar="N", help="Worker processes; default one per usable core.")
]
Spec = Annotated[str | None, typer.Option("--spec", metavar="NAME", help=_SPEC_HELP)]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Wall time for QM, e.g. 90s, 30m, 2h.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="A QCFractal server that computes the references' single points."
    ),
]
InPrefect = Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow.")]
RecordNumber = Annotated[int | None, typer.Option("--record", metavar="N", help="One record in full.")]
LigandId = Annotated[
    str | None, typer.Option("--ligand", metavar="ID", help="One ligand in full, by its id or name.")
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="CLASS", help="Only failures of this kind or stage; may be repeated."),
]
LedgerAddress = Annotated[
    str,
    typer.Option(
        "--ledger", metavar="URL", help="Keep the run's ledger in PostgreSQL: postgresql://host/db."
    ),
]


@app.command()
def assign(  # a command's options are its arguments
    libraries: Libraries,
    out: Out,
    formats: Formats = None,
    check: Check = None,
    constraints: Constraints = None,
    model: ModelName = None,
    form: FormName = None,
    charges: Annotated[
        str | None,
        typer.Option(
            "--charges", metavar="SOURCE", help="model (default), or input: the SDF records' own charges."
        ),
    ] = None,
    config: Config = None,
    jobs: Jobs = None,
    ledger: LedgerAddress = "",
    dask: Annotated[
        str, typer.Option("--dask", metavar="ADDRESS", help="Run on the workers of a Dask scheduler.")
    ] = "",
    in_prefect: InPrefect = False,
    as_json: Json = False,
) -> None:
    """Parametrise by the shipped network alone, without QM: seconds."""
    with exit_codes():
        options = {
            **_export_options(formats, check, constraints),
            "model": model,
            "form": form,
            "charges": charges,
            "jobs": jobs,
        }
        request = Request(
            command="assign",
            libraries=tuple(path.absolute() for path in libraries),
            out=out.absolute(),
            store=chosen_store(None),
            ledger=check_address(ledger) if ledger else "",
            settings=settings_from(config, options),
        )
        _run(request, in_prefect=in_prefect, dask=dask, as_json=as_json)


@app.command()
def refine(
    libraries: Libraries,
    out: Out,
    formats: Formats = None,
    check: Check = None,
    constraints: Constraints = None,
    model: ModelName = None,
    form: FormName = None,
    charges: Annotated[
        str | None,
        typer.Option(
            "--charges", metavar="SOURCE", help="model (default), or resp: fitted to HF/6-31G* potentials."
        ),
    ] = None,
    spec: Spec = None,
    server: Server = None,
    store: Store = None,
    budget: Budget = None,
    config: Config = None,
    jobs: Jobs = None,
    ledger: LedgerAddress = "",
    in_prefect: InPrefect = False,
    as_json: Json = False,
) -> None:
    """Compute QM references for every ligand, fine-tune the network on them, and deliver."""
    with exit_codes():
        options = {
            **_export_options(formats, check, constraints),
            "model": model,
            "form": form,
            "charges": charges,
            "jobs": jobs,
            **_qm_options(spec, server, budget),
        }
        request = Request(
            command="refine",
            libraries=tuple(path.absolute() for path in libraries),
            out=out.absolute(),
            store=chosen_store(store),
            ledger=check_address(ledger) if ledger else "",
            settings=settings_from(config, options),
        )
        _run(request, in_prefect=in_prefect, as_json=as_json)


def _export_options(formats: str | None, check: str | None, constraints: bool | None) -> dict[str, object]:
    """What the export options of a command say, by the names of the settings."""
    return {
        "export.formats": split_formats(formats),
        "export.check": check,
        "export.constraints": constraints,
    }


def _qm_options(spec: str | None, server: str | None, budget: str | None) -> dict[str, object]:
    """What the QM options of a command say, by the names of the settings."""
    return {"qm.spec": spec, "qm.server.address": server, "qm.budget_seconds": parse_duration(budget)}


def _run(request: Request, *, in_prefect: bool, dask: str = "", as_json: bool) -> None:
    if dask and in_prefect:
        raise UsageError("--dask and --prefect: a run has one scheduler; give one of them")
    if dask:
        from flows.dask_run import run_on_dask  # only who uses it needs Dask

        with watch_on_stderr() as watch:
            run_on_dask(request, dask, watch)
    elif in_prefect:
        with watch_on_stderr() as watch:
            batch.check(request, watch)  # Prefect would log a traceback for each mistake
        _quiet_prefect()
        # a second that only Prefect's commands pay
        from flows.campaign_flow import run_in_prefect, server_note

        if note := server_note():
            print(f"parmflow: {note}", file=sys.stderr, flush=True)
        run_in_prefect(request, lines_on_stderr())
    else:
        with watch_on_stderr() as watch:
            batch.run(request, watch)
    raise typer.Exit(_show(request.out, as_json=as_json))


def _quiet_prefect() -> None:
    """Let Prefect call nobody; read when it is imported."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _show(folder: Path, *, as_json: bool) -> int:
    """Print what became of the ligands; 3 when some failed, else 0."""
    with contextlib.closing(batch.existing_ledger(folder)) as ledger:
        if as_json:
            print_json(summary(folder, ledger))
        else:
            print_summary(folder, ledger)
        return 3 if ledger.n_outcomes(status="failed") else 0


@app.command()
def qm(
    libraries: Libraries,
    spec: Spec = None,
    server: Server = None,
    store: Store = None,
    budget: Budget = None,
    config: Config = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Compute the QM references that `refine` would, and only fill the store."""
    with exit_codes():
        request = Request(
            command="refine",
            libraries=tuple(path.absolute() for path in libraries),
            out=Path(),
            store=chosen_store(store),
            settings=settings_from(config, {"jobs": jobs, **_qm_options(spec, server, budget)}),
        )
        with watch_on_stderr() as watch:
            filled = qm_only.fill_store(request, watch)
        if as_json:
            print_json(filled.to_dict())
        else:
            print(filled.to_text())
        raise typer.Exit(3 if filled.failed else 0)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Training configuration, TOML.")],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of the training tables.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoints and weights; resumed.")],
) -> None:
    """Train a network from one configuration file."""
    with exit_codes():
        from pipeline.qm.surface import Gfn2Surface  # tblite: only this command pays

        training.train(config, data, out, cheap=Gfn2Surface, report=lambda line: print(line, flush=True))


@app.command()
def evaluate(
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="A table of QM references, or the data folder.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Report, rows and plots.")],
    model: ModelName = None,
    form: FormName = None,
    as_json: Json = False,
) -> None:
    """Score a network on a table of QM references beside MMFF94."""
    with exit_codes():
        try:
            from models.evaluation.evaluate import evaluate as score  # matplotlib: only this command pays it
        except ImportError as error:
            raise UsageError(f"evaluate draws: {error}; install libxrender1 and libxext6") from error
        settings = settings_from(None, {"model": model, "form": form})
        report = score(batch.predictor_of(settings.model, settings.form), data, out)
        print(report.to_json().strip() if as_json else report.to_text())


@app.command()
def show(run: Run, ligand: LigandId = None, record: RecordNumber = None, as_json: Json = False) -> None:
    """Say what became of each ligand of a run, why some failed, or all about one of them."""
    with exit_codes():
        if record is None and ligand is None:
            _show(run.absolute(), as_json=as_json)
            return
        with contextlib.closing(batch.existing_ledger(run)) as ledger:
            records = records_asked_for(ledger, run, record, ligand)
        if as_json:
            print_json({"records": records})
        else:
            print_records(records)


@app.command()
def retry(run: Run, classes: Classes = None, as_json: Json = False) -> None:
    """Try again the failed ligands of a run for which that can help (time, memory, crash), or of a class."""
    with exit_codes():
        with watch_on_stderr() as watch:
            batch.retry(run.absolute(), watch, classes or ())
        raise typer.Exit(_show(run.absolute(), as_json=as_json))


@app.command()
def serve(
    inbox: Annotated[
        Path | None, typer.Argument(metavar="INBOX", help="Folder that takes library files.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A folder per library file is made here.")
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option("--cron", metavar="SPEC", help="When to look, in UTC; default every ten minutes."),
    ] = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Run every library file that comes into a folder, on a schedule, as Prefect deployments.

    With INBOX and --out, or with the table [service] of --config, which also has nightly refinement with a QM
    budget, retraining and the store's verification.
    """
    with exit_codes():
        _quiet_prefect()
        from flows.service import build_service, read_service  # a second that only Prefect's commands pay
        from flows.service_flow import serve_service

        given = {"out": out, "cron": cron, "store": store}
        given = {name: value for name, value in given.items() if value is not None}
        if inbox is None and config is not None:
            if given:
                raise UsageError(f"--{', --'.join(given)}: only with INBOX; else in [service] of {config}")
            serve_service(read_service(config), config.absolute())
        elif inbox is not None and out is not None:
            settings = settings_from(config, {})
            serve_service(build_service({"inbox": inbox, **given}, settings, Path.cwd()), None)
        else:
            raise UsageError("give INBOX and --out, or --config with a table [service]")


@app.command(name="doctor")
def doctor_command(store: Store = None, server: Server = None, as_json: Json = False) -> None:
    """Check versions against the pins, engines, a server, scratch space, the QM store and the scheduler."""
    with exit_codes():
        settings = settings_from(None, {"qm.server.address": server}).qm.server
        report = doctor.examine(chosen_store(store), settings)
        if as_json:
            print_json(report.to_dict())
        else:
            print(report.to_text())
        raise typer.Exit(0 if report.is_well else 1)


def main() -> None:
    """Entry point of the command."""
    with ending_with_its_reader():
        app()


if __name__ == "__main__":
    main()
