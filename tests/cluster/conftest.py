"""One PostgreSQL, one Ray cluster and one ScarForge for all tests of this folder: starting them takes a minute."""

from collections.abc import Iterator

import pytest

from tests.cluster.forge_on_ray import ForgeOnRay, forge_on_ray
from tests.cluster.local_postgres import Postgres, local_postgres
from tests.cluster.local_ray import local_ray


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with local_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[ForgeOnRay]:
    with local_ray(2) as address, forge_on_ray(tmp_path_factory.mktemp("home"), postgres, address) as served:
        yield served
