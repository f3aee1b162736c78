"""What the command line says of an error: a setting that cannot be is explained, a mistake of ours is not hidden."""

from cache.errors import ConfigError, SettingsError
from pipeline.cli import explain


def test_a_setting_that_cannot_be_is_a_message_and_status_1() -> None:
    assert explain(SettingsError("k must be at least 1, got 0")) == ("k must be at least 1, got 0", 1)
    assert explain(ConfigError("run.toml: unknown key")) == ("run.toml: unknown key", 2)
    assert explain(FileNotFoundError(2, "No such file", "a.jpg"))[1] == 1


def test_a_bare_value_error_is_unexpected() -> None:
    text, status = explain(ValueError("operands could not be broadcast together"))
    assert text.startswith("ValueError: operands could not be broadcast together. This should not happen")
    assert status == 1
