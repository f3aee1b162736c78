"""The recurrent unit of the word generator against PyTorch's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from stages.training.multilabel.gru import Scan


def test_states_and_every_gradient_are_those_of_pytorchs_gru() -> None:
    drawn = torch.Generator().manual_seed(0)
    gru = nn.GRU(5, 7, batch_first=True)
    of_word, of_state, of_word_bias, of_state_bias = gru.parameters()
    words = torch.randn(4, 6, 5, generator=drawn, requires_grad=True)
    first = torch.randn(4, 7, generator=drawn, requires_grad=True)
    lengths = torch.tensor([6, 4, 4, 1])
    packed = pack_padded_sequence(words, lengths, batch_first=True)
    assert isinstance(packed, PackedSequence)
    weighing = torch.randn(len(packed.data), 7, generator=drawn)

    expected, _ = gru(packed, first[None])
    wanted = torch.autograd.grad((expected.data * weighing).sum(), [words, first, *gru.parameters()], retain_graph=True)

    added = nn.functional.linear(packed.data, of_word, of_word_bias)
    states = Scan.apply(added, first, of_state, of_state_bias, packed.batch_sizes.tolist())
    given = torch.autograd.grad((states * weighing).sum(), [words, first, *gru.parameters()])

    torch.testing.assert_close(states, expected.data)
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other)
