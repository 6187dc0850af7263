# pyright: reportMissingTypeStubs=false
"""The one place where pyarrow, which has no types, is imported."""

from typing import Any, TypeAlias

import pyarrow
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet

pa: Any = pyarrow
pc: Any = pyarrow.compute
pj: Any = pyarrow.json
pq: Any = pyarrow.parquet

DataType: TypeAlias = Any
Field: TypeAlias = Any
Schema: TypeAlias = Any
Table: TypeAlias = Any
