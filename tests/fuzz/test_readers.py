"""Every reader of foreign files: sound ones, the grown corpus and fresh changes of both end well or in one line."""

import os
import random
import re
import resource

import pytest

from common.errors import InputError
from tests.fuzz.run import changed, limit_time, read_one, seeds_of
from tests.fuzz.targets import TARGETS

QUICK = [name for name, target in TARGETS.items() if not target.slow]
MADE_BY_US = ("store", "archive", "checkpoint", "weights", "card", "split", "record", "boxes", "scores", "regions")
FRESH = 60
NO_PLACE = r"Too many open files|limit of open files"


@pytest.fixture
def timed():
    limit_time()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_read_and_changed_ones_are_read_or_refused_in_a_line(name, tmp_path, timed):
    target, chance = TARGETS[name], random.Random(name)
    path, seeds = tmp_path / target.name, seeds_of(target)
    for write in target.seeds:
        write(path)
        target.read(path)
    fresh = [changed(chance.choice(seeds), chance, seeds) for _ in range(2 if target.slow else FRESH)]
    wrong = {told: content for content in [*seeds, *fresh] if (told := read_one(target, path, content))}
    assert wrong == {}


@pytest.mark.parametrize("name", MADE_BY_US)
def test_what_the_disk_does_not_give_is_not_told_to_be_made_again(name, tmp_path):
    target = TARGETS[name]
    path = tmp_path / target.name
    target.seeds[0](path)
    target.read(path)  # imports what it needs
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limit[1]))
    try:
        with pytest.raises((InputError, OSError)) as refused:
            target.read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert re.search(NO_PLACE, str(refused.value))
    assert not re.search("rematerialise|delete", str(refused.value))
