"""Where everything lies: `<home>/<source>/<profile>/<asset>/fold_<K>[/seed_<S>]`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folders of one source and profile under one home (`SCARFORGE_HOME`, default `./workspace`)."""

    home: Path
    source: str
    profile: str

    @property
    def root(self) -> Path:
        """The folder of this source and profile."""
        return self.home / self.source / self.profile

    def place(self, asset: str, fold: int | None = None, seed: int | None = None) -> Path:
        """Return the folder of an asset; unpartitioned assets have no fold, only models and scores have seeds."""
        folder = self.root / asset
        if fold is not None:
            folder = folder / f"fold_{fold}"
        if seed is not None:
            folder = folder / f"seed_{seed}"
        return folder

    @property
    def spool(self) -> Path:
        """Where tracking keeps what could not be sent."""
        return self.home / "tracking_spool"

    @property
    def locks(self) -> Path:
        """Where the locks on accelerators lie."""
        return self.home / "locks"

    @property
    def tracking_uri(self) -> str:
        """The default MLflow store: an SQLite file beside the artifacts."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Where the default MLflow store keeps artifacts."""
        return self.home / "mlflow_artifacts"
