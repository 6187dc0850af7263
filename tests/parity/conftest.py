import multiprocessing
import os
from collections.abc import Generator
from concurrent.futures import Executor, ProcessPoolExecutor
from unittest import mock

import pytest


@pytest.fixture(scope="session")
def agentdojo() -> Generator[Executor]:
    """AgentDojo in processes of its own.

    It puts texts into sets and takes them out again in the set's order: both sides hash alike. A detector's
    model is so small that several threads cost it five times the CPU of one.
    """
    variables = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    with (
        mock.patch.dict(os.environ, variables),
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        yield pool
