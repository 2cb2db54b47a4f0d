"""The only partition of the graph: five folds over patients."""

import dagster as dg

FOLDS = dg.StaticPartitionsDefinition([str(fold) for fold in range(5)])
OWNERS = ["team:scarforge"]
