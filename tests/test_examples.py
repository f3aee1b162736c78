"""The examples in docstrings: each runs, and every public function has one."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

import cache
import pipeline
import stages
from tests.public_surface import PUBLIC

MODULES = sorted(
    module.name
    for package in (cache, stages, pipeline)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", [name for name in MODULES if ">>>" in inspect.getsource(import_module(name))])
def test_the_examples_of_this_module_run(name: str) -> None:
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_function_has_an_example(package: str) -> None:
    module = import_module(package)
    functions = [name for name in PUBLIC[package] if inspect.isfunction(getattr(module, name))]
    assert [name for name in functions if ">>>" not in (getattr(module, name).__doc__ or "")] == []
