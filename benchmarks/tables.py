"""Where benchmarks find their data, the folder PARMFLOW_DATA (data/qm/README.md says what is in it), and the
configuration that the shipped weights were trained by.
"""

import os
from pathlib import Path

import models
from models.weights import DEFAULT

DATA = Path(os.environ.get("PARMFLOW_DATA", "no-data"))
HOW = "set PARMFLOW_DATA to the folder with qm/, charges/, forcefields/ and libraries/"
CONFIG = Path(models.__file__).parent / "configs" / f"{DEFAULT}.toml"
