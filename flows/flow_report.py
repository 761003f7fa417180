"""What a person reads about a run in Prefect's UI: counts, failures by class, and where the files are."""

import html
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.request import Request

REPORTS = ("outcomes.csv", "outcomes.parquet", "fits.csv", "fits.png", "library.offxml", "run.json")

FailureClass = tuple[str, str, int, int]
"""stage, kind, records, records for which trying again may help"""


def show_report(request: Request, counts: dict[str, int], failures: Sequence[FailureClass]) -> None:
    """Leave two artifacts: the failures by class, and a page of counts and links."""
    create_table_artifact(
        key="failures",
        table=[
            {"stage": stage, "class": kind, "records": number, "can be retried": retryable}
            for stage, kind, number, retryable in failures
        ],
        description=f"Why {counts['n_failed']} of {counts['n_records']} records failed",
    )
    create_markdown_artifact(key="report", markdown=report_page(request, counts, failures))


def report_page(request: Request, counts: dict[str, int], failures: Sequence[FailureClass]) -> str:
    """The page as Markdown; what comes from users, file names among it, cannot become markup."""
    names = ", ".join(code(path.name) for path in request.libraries)
    lines = [
        f"# {request.command} {names}",
        "",
        f"**{counts['n_ok']} of {counts['n_records']}** ligands parametrised, {counts['n_failed']} failed.",
        "",
    ]
    if failures:
        lines += ["| stage | class | records | can be retried |", "|---|---|---|---|"]
        lines += [f"| {stage} | {kind} | {number} | {again} |" for stage, kind, number, again in failures]
        lines += ["", f"What failed and why: {code(f'parmflow show {request.out}')}", ""]
    lines += [
        f"- [{name}]({(request.out / name).as_uri()})" for name in REPORTS if (request.out / name).exists()
    ]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """A text in code style, with nothing in it that Markdown or HTML would read."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return f"`{html.escape(plain.replace('`', chr(39)), quote=False)}`"
