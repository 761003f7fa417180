"""What the user reads at the end of a run, and later with `parmflow show`."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import UsageError
from pipeline.ledger import Ledger
from pipeline.ledger_values import Fit
from pipeline.outcome import Outcome

_MAX_ROWS = 50
_MAX_FAILURES = 20
_N_PLAIN_COLUMNS = 4
_FIT_LEGEND = (
    "Errors against QM on geometries left out, before -> after fine-tuning\n"
    "(energy in kcal/mol, force in kcal/mol/Å; shipped: tuning did not help, the old parameters stay):\n"
)
_MESSAGE_WIDTH = 160


def summary(folder: Path, ledger: Ledger) -> dict[str, Any]:
    """The state of a run as plain values, the same for `--json` of every command."""
    rows = []
    for outcome in ledger.outcomes():
        row: dict[str, Any] = vars(outcome) | {}
        fit = _fit(ledger, outcome)
        if fit:
            row["fit"] = {name: value for name, value in vars(fit).items() if name != "parameters"}
        rows.append(row)
    names = ("stage", "kind", "n_records", "n_retryable")
    return {
        "folder": str(folder),
        "n_records": ledger.n_records(),
        "n_ok": ledger.n_outcomes(status="ok"),
        "n_failed": ledger.n_outcomes(status="failed"),
        "n_undone": ledger.n_records() - ledger.n_outcomes(),
        "n_running": len(ledger.leases.running()),
        "failures": [dict(zip(names, row, strict=True)) for row in ledger.failures_by_class()],
        "outcomes": rows,
    }


def _fit(ledger: Ledger, outcome: Outcome) -> Fit | None:
    key = ledger.ligand_key(outcome.id) if outcome.status == "ok" else ""
    return ledger.fit(key) if key else None


def print_json(value: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command end as all do whose output nobody reads; rich would exit with 1."""
        raise  # in rich's own `except BrokenPipeError`


def print_summary(folder: Path, ledger: Ledger) -> None:
    """A table of the ligands, the reasons of failures, and where to look next, on stdout."""
    console = _Console(highlight=False, markup=False, soft_wrap=True)
    table = _table(ledger, list(islice(ledger.outcomes(), _MAX_ROWS)))
    if len(table.columns) > _N_PLAIN_COLUMNS:
        console.print(_FIT_LEGEND)
    console.print(table)
    n_records, n_settled = ledger.n_records(), ledger.n_outcomes()
    if n_settled > _MAX_ROWS:
        console.print(f"... and {n_settled - _MAX_ROWS} more in outcomes.csv")
    n_failed = ledger.n_outcomes(status="failed")
    console.print(f"\n{_counts(ledger, n_records, n_settled, n_failed)}.")
    for outcome in islice(ledger.outcomes(status="failed"), _MAX_FAILURES):
        # Our messages begin with the ligand's name, where they know it.
        message = _plain(outcome.message.removeprefix(f"{outcome.name}: "), _MESSAGE_WIDTH)
        console.print(f"  record {outcome.record}, {_plain(outcome.name, 32)} ({outcome.kind}): {message}")
    if n_failed > _MAX_FAILURES:
        console.print(f"  ... and {n_failed - _MAX_FAILURES} more")
    if n_failed:
        console.print(_failure_table(ledger))
    for line in _next_steps(folder, ledger):
        console.print(line)


def _counts(ledger: Ledger, n_records: int, n_settled: int, n_failed: int) -> str:
    text = f"{n_settled - n_failed} of {n_records} ligands parametrised, {n_failed} failed"
    if n_settled < n_records:
        n_running = len(ledger.leases.running())
        text += f", {n_records - n_settled} not done yet" + (f" ({n_running} in work)" if n_running else "")
    return text


def _failure_table(ledger: Ledger) -> Table:
    table = Table(box=None, pad_edge=False, title="\nFailures by class", title_justify="left")
    for heading in ("stage", "class", "records", "can be retried"):
        table.add_column(heading, justify="left" if heading in ("stage", "class") else "right", no_wrap=True)
    for stage, kind, number, again in ledger.failures_by_class():
        table.add_row(*(Text(str(cell)) for cell in (stage, kind, number, again)))
    return table


def _table(ledger: Ledger, outcomes: Sequence[Outcome]) -> Table:
    fits = {outcome.id: _fit(ledger, outcome) for outcome in outcomes}
    with_fits = any(fits.values())
    table = Table(box=None, pad_edge=False)
    for heading in ("#", "name", "status", "seconds"):
        justify: Literal["left", "right"] = "right" if heading in ("#", "seconds") else "left"
        table.add_column(heading, justify=justify, no_wrap=True)
    if with_fits:
        table.add_column("energy", no_wrap=True)
        table.add_column("force", no_wrap=True)
        table.add_column("QM", justify="right")
    for outcome in outcomes:
        cells = [str(outcome.record), _plain(outcome.name, 20), outcome.status, f"{outcome.seconds:.1f}"]
        cells += _fit_cells(fits[outcome.id]) if with_fits else []
        table.add_row(*(Text(cell) for cell in cells))  # a name may look like the console's markup
    return table


def _fit_cells(fit: Fit | None) -> list[str]:
    if fit is None:
        return ["", "", ""]
    if fit.kept == "shipped":
        return [f"{fit.energy_rmse_before:.2f} shipped", f"{fit.force_rmse_before:.1f}", str(fit.n_qm)]
    return [
        f"{fit.energy_rmse_before:.2f} -> {fit.energy_rmse_after:.2f}",
        f"{fit.force_rmse_before:.1f} -> {fit.force_rmse_after:.1f}",
        str(fit.n_qm),
    ]


def _plain(text: str, width: int) -> str:
    """One line without control characters, cut to a width."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _next_steps(folder: Path, ledger: Ledger) -> list[str]:
    lines = ["", "Where to look next:"]
    if ledger.n_outcomes() < ledger.n_records():
        return [*lines, "  give the same command again: it goes on where it stopped"]
    lines.append(f"  {folder / 'outcomes.csv'}: one row per record")
    delivered = next(ledger.outcomes(status="ok"), None)
    if delivered:
        name = _plain(delivered.name, 32)
        lines.append(f"  {folder / delivered.folder}: the files of {name}; check.json proves them")
    if (folder / "fits.csv").exists():
        lines.append(f"  {folder / 'fits.csv'}, fits.png: errors against QM before and after fine-tuning")
    failed = next(ledger.outcomes(status="failed"), None)
    if failed:
        lines.append(f"  parmflow show {folder} --ligand {failed.id}: why that one failed, in full")
    if ledger.n_retryable():
        lines.append(
            f"  parmflow retry {folder}: try {ledger.n_retryable()} failed again, since that may help"
        )
    return lines


def records_asked_for(
    ledger: Ledger, folder: Path, number: int | None, ligand: str | None
) -> list[dict[str, Any]]:
    """The record of this number, or those of this id or name, in full: what became of each, its text, each
    stage of each attempt, and the traceback of a failure.

    Raises UsageError where the run in `folder` has none.
    """
    numbers = ledger.find(ligand) if ligand is not None else [number or 0]
    if not numbers:
        raise UsageError(f"{ligand}: {folder} has no ligand of this id or name")
    for one in numbers:
        if not 1 <= one <= ledger.n_records():
            raise UsageError(f"record {one}: {folder} has records 1 to {ledger.n_records()}")
    return [_record_in_full(ledger, one) for one in numbers]


def _record_in_full(ledger: Ledger, number: int) -> dict[str, Any]:
    id_, record = ledger.record(number)
    outcome = ledger.outcome(id_)
    running = dict(ledger.leases.running()).get(number)
    state = "undone" if running is None else f"in work ({running})"
    facts = vars(outcome) if outcome else {"record": number, "name": record.name, "id": id_, "status": state}
    return {
        **facts,
        "source": record.source,
        "text": record.text,
        "steps": [vars(step) for step in ledger.history.of(id_)],
        "traceback": ledger.traceback(id_),
    }


def print_records(records: Sequence[dict[str, Any]]) -> None:
    """Records in full, one after the other."""
    for full in records:
        _print_record(full)


def _print_record(full: dict[str, Any]) -> None:
    facts = {name: value for name, value in full.items() if name not in ("text", "steps", "traceback")}
    lines = [f"{name + ':':<10}{value}" for name, value in facts.items()]
    if full["steps"]:
        lines += ["", "attempt  stage         seconds  ending"]
    for step in full["steps"]:
        ending = f"{step['kind']}: {step['message']}" if step["kind"] else "ok"
        lines.append(f"{step['attempt']:>7}  {step['stage']:<12}{step['seconds']:>9.2f}  {ending}")
    text = "\n".join([*lines, "", full["text"], "", full["traceback"]])
    # A name or a library line may hold the control sequences of a terminal.
    print("".join(char if char.isprintable() or char == "\n" else "?" for char in text).strip())
