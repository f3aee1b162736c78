import torch

from stages.extraction.extract import settle


def test_it_grows_while_it_pays() -> None:
    rates = {8: 100.0, 16: 150.0, 32: 190.0, 64: 196.0, 128: 500.0}
    assert settle(lambda size: size / rates[size], lambda: 0.0) == 32  # 64 gives 3 % more: not worth the memory


def test_it_stops_where_the_memory_ends() -> None:
    def seconds(size: int) -> float:
        if size > 16:
            raise torch.OutOfMemoryError("full")
        return 1.0

    assert settle(seconds, lambda: 0.0) == 16


def test_it_stops_when_the_trial_has_taken_its_time() -> None:
    now = iter([0.0, 4.0, 8.0, 12.0, 16.0])
    assert settle(lambda _: 1.0, lambda: next(now)) == 32  # the third trial ended after ten seconds
