"""Names that fit a format's columns: atoms, titles, provenance."""

from collections import Counter

from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.schema import Parametrized, Topology


def build_atom_names(topology: Topology) -> tuple[str, ...]:
    """Name every atom by element and running number (C1, C2, H1 ...), unique, at most four characters."""
    table = Chem.GetPeriodicTable()
    seen: Counter[int] = Counter()
    names = []
    for number in topology.atomic_numbers.tolist():
        seen[number] += 1
        names.append(f"{table.GetElementSymbol(number)}{seen[number]}")
    too_long = next((name for name in names if len(name) > 4), None)
    if too_long is not None:
        raise ExportError(
            f"atom name {too_long} has more than four characters; Amber cannot hold this ligand"
        )
    return tuple(names)


def printable(text: str, width: int) -> str:
    """Cut a title to one line of printable characters; control characters become spaces."""
    return "".join(char if char.isprintable() else " " for char in text)[:width].strip()


def ascii_title(text: str, width: int) -> str:
    """Cut a title to one line of ASCII without the % that starts an Amber section."""
    return printable(text, width).encode("ascii", "replace").decode().replace("%", "_")


def xml_comment(parametrized: Parametrized) -> str:
    """Say what a file is and where it comes from; two hyphens would end an XML comment."""
    facts = (("ligand", parametrized.ligand.name), ("id", parametrized.id), *parametrized.provenance)
    text = "; ".join(f"{key}: {printable(value, 300)}" for key, value in facts)
    return f"parmflow, for this one ligand. {text.replace('--', '- -').replace('--', '- -')}"
