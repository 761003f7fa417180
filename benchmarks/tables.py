"""Where benchmarks find their data: the folder PARMFLOW_DATA (data/qm/README.md says what is in it)."""

import os
from pathlib import Path

DATA = Path(os.environ.get("PARMFLOW_DATA", "no-data"))
HOW = "set PARMFLOW_DATA to the folder with qm/, charges/, forcefields/ and libraries/"
