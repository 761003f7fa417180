"""Make training tables from QCArchive's data sets; README.md beside this says which.

python data/qm/qcarchive/prepare.py train.parquet dev.parquet SOURCE=KIND:NAME... [SOURCE=FILE.json...]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from models.reference_table import table_of
from pipeline.store.qcarchive import SERVER, open_client, read_dataset
from pipeline.store.qcschema import read_qcschema
from pipeline.store.rows import Entry


def entries_of(place: str, server: str) -> Iterator[Entry | str]:
    """Results of a file of records (JSON, one per line or a list), or of KIND:NAME on the server."""
    if Path(place).is_file():
        return read_qcschema(Path(place))
    kind, _, name = place.partition(":")
    return read_dataset(open_client(server), kind, name)


def main() -> None:
    """Write both tables; print what each data set gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("dev", type=Path)
    parser.add_argument("sets", nargs="+", metavar="SOURCE=PLACE")
    parser.add_argument("--share", type=float, default=0.1, help="of the scaffolds held out")
    parser.add_argument("--server", default=SERVER)
    arguments = parser.parse_args()
    train, dev = [], []
    for each in arguments.sets:
        source, _, place = each.partition("=")
        table = table_of(entries_of(place, arguments.server), source)
        train += table.part(dev=False, share=arguments.share)
        dev += table.part(dev=True, share=arguments.share)
        print(f"{source}: {len(table.rows)} rows, {len(table.refused)} results not used", flush=True)
        for sentence in table.refused[:5]:
            print(f"    {sentence}")
    for rows, path in ((train, arguments.train), (dev, arguments.dev)):
        pd.DataFrame(rows).to_parquet(path)


if __name__ == "__main__":
    main()
