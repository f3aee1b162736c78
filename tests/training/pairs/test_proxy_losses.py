"""Losses on proxies: against PyTorch Metric Learning, against loops, and what the training loop asks of them."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_metric_learning.losses as peer
import torch

from stages.training import LinearHeadConfig, OptimizerConfig
from stages.training.heads.kinds import InputsConfig
from stages.training.pairs.kinds import ProxyAnchorConfig, ProxyNcaConfig, SoftTripleConfig
from stages.training.pairs.loss import PairLoss
from stages.training.weights.initialization import start_prototypes
from tests.oracles import pairs as oracle
from tests.toys.pairs import FEW

CONFIGS = [ProxyAnchorConfig(), ProxyNcaConfig(), SoftTripleConfig(subcenters=3)]
SIZES = torch.tensor([3, 3, 3, 1, 2])


def built(config: Any, dim: int = 6) -> PairLoss:
    loss: PairLoss = config.build(dim, SIZES, torch.Generator().manual_seed(1))
    return loss.double()


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (ProxyAnchorConfig(margin_cos=0.2, scale=16.0), lambda: peer.ProxyAnchorLoss(5, 6, 0.2, 16.0)),
        (
            SoftTripleConfig(subcenters=3, subcenter_scale=5.0, scale=12.0, margin_cos=0.1),
            lambda: peer.SoftTripleLoss(5, 6, 3, la=12.0, gamma=0.2, margin=0.1),
        ),
    ],
    ids=["proxy anchor", "soft triple"],
)
def test_value_and_gradients_are_the_librarys(config: Any, make: Any) -> None:
    loss, other = built(config), make().double()
    (mine,), (theirs,) = loss.parameters(), other.parameters()
    with torch.no_grad():
        theirs.copy_(mine)
    results = []
    for vectors in (loss, other):
        embeddings = FEW.embeddings.clone().requires_grad_()
        value = vectors(embeddings, FEW.labels)
        value.backward()
        results.append((value.detach(), embeddings.grad))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_proxynca_is_a_softmax_over_squared_distances() -> None:
    loss = built(ProxyNcaConfig(scale=7.0))
    proxies = loss.prototypes
    assert proxies is not None
    wanted = oracle.proxy_nca(FEW.embeddings.tolist(), FEW.labels.tolist(), proxies[0].tolist(), 7.0)
    assert float(loss(FEW.embeddings, FEW.labels).detach()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_the_first_numbers_of_embeddings_meet_the_first_of_the_proxies(config: Any) -> None:
    whole, short = built(config), built(config, 4)
    assert whole.prototypes is not None
    assert short.prototypes is not None
    with torch.no_grad():
        short.prototypes.copy_(whole.prototypes[:, :, :4])
    value = whole(FEW.embeddings[:, :4], FEW.labels)
    torch.testing.assert_close(value, short(FEW.embeddings[:, :4].contiguous(), FEW.labels))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_zero_embedding_has_no_direction_and_no_gradient(config: Any) -> None:
    embeddings = FEW.embeddings.clone()
    embeddings[0] = 0
    embeddings.requires_grad_()
    (gradient,) = torch.autograd.grad(built(config)(embeddings, FEW.labels), embeddings)
    assert gradient[0].eq(0).all()
    assert gradient[1:].ne(0).any(1).all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_proxies_are_drawn_from_the_generator_that_is_given(config: Any) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, again = built(config), built(config)
    assert torch.equal(torch.get_rng_state(), state)
    for mine, same in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, same)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_proxies_can_start_at_class_means(config: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    network = LinearHeadConfig(dim=6, inputs=InputsConfig(center=False, rescale="none")).build([7], generator)
    rows, labels = torch.randn(30, 7, generator=generator), torch.arange(30) % 5
    loss = config.build(6, torch.bincount(labels), generator)
    assert loss.prototypes is not None
    start_prototypes(loss.prototypes, network, rows, labels)
    embeddings = network(rows).detach()
    for label in range(5):
        own = embeddings[labels == label]
        for turn in range(len(loss.prototypes)):
            mean = own[turn :: len(loss.prototypes)].sum(0)
            proxy = loss.prototypes[turn, label].detach()
            torch.testing.assert_close(proxy / proxy.norm(), mean / mean.norm(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_proxies_move_at_their_own_rate(config: Any, kind: Any) -> None:
    moved = []
    for rate, lr in ((4.0, 0.01), (1.0, 0.04)):
        loss = type(config)(proxy_rate=rate).build(6, SIZES, torch.Generator().manual_seed(1))
        head = torch.nn.Linear(6, 6, bias=False)
        torch.nn.init.eye_(head.weight)
        optimizer = OptimizerConfig(kind=kind, lr=lr, final_lr=lr).build(head.parameters(), loss)
        before = [weight.detach().clone() for weight in (*loss.parameters(), head.weight)]
        loss(head(FEW.embeddings.float()), FEW.labels).backward()
        optimizer.step(lr)
        after = [weight.detach() for weight in (*loss.parameters(), head.weight)]
        moved.append([new - old for new, old in zip(after, before, strict=True)])
    torch.testing.assert_close(moved[0][0], moved[1][0])  # proxies
    torch.testing.assert_close(4 * moved[0][1], moved[1][1], rtol=2e-3, atol=1e-5)  # the head


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (ProxyAnchorConfig, {"margin_cos": 28.6}, r"margin_cos is a difference of cosines, in \[0, 1\], got 28.6"),
        (ProxyAnchorConfig, {"scale": 0.0}, "scale is a factor, above 0 and finite, got 0.0"),
        (ProxyAnchorConfig, {"proxy_rate": 0.0}, "proxy_rate is a factor on the learning rate, above 0 and finite"),
        (ProxyNcaConfig, {"scale": -1.0}, "scale is a factor, above 0 and finite, got -1"),
        (SoftTripleConfig, {"subcenters": 0}, "subcenters is a number of prototypes a class, at least 1, got 0"),
        (SoftTripleConfig, {"subcenter_scale": 0.0}, "subcenter_scale is a factor, above 0"),
        (SoftTripleConfig, {"margin_cos": -0.1}, r"margin_cos is a difference of cosines, in \[0, 1\], got -0.1"),
    ],
)
def test_a_bad_setting_is_refused(config: Any, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
