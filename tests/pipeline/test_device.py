"""Where heads are trained: on the device that is named, or on the CPU where that alone computes their steps."""

import pytest

from cache.errors import ConfigError
from pipeline.config import HeadRun
from pipeline.progress import Display
from pipeline.vectors import device_for
from stages.training import ArcFaceConfig, LinearHeadConfig, MultilabelHeadConfig
from stages.training.pairs.kinds import TripletConfig
from stages.training.recipe import HeadRecipe

QUIET = Display(quiet=True)
LINEAR = LinearHeadConfig(dim=8)


def test_margin_losses_are_trained_on_the_device_and_others_on_the_cpu() -> None:
    assert device_for(HeadRun("a", HeadRecipe(LINEAR, ArcFaceConfig())), "cuda", QUIET) == "cuda"
    assert device_for(HeadRun("t", HeadRecipe(LINEAR, TripletConfig())), "cuda", QUIET) == "cpu"
    assert device_for(HeadRun("m", HeadRecipe(MultilabelHeadConfig(dim=8))), "cuda", QUIET) == "cpu"


def test_a_device_that_pytorch_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="--device must be cpu, cuda or cuda:NUMBER, got 'gpu'"):
        device_for(HeadRun("a", HeadRecipe(LINEAR, ArcFaceConfig())), "gpu", QUIET)
