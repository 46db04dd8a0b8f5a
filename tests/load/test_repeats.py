"""The same seed gives the same verdict and the same picture, however often, on whatever server."""

import pytest

from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.lab.faults.injector import PUBSUB_FAULTS
from mpim_lab.widgets import FlowView

pytestmark = pytest.mark.timeout(600)


def verdict_and_picture(result):
    return result.verdict, FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]


@pytest.mark.parametrize("design", ["naive", "confirmed"])
async def test_a_hundred_runs_with_one_seed_give_one_verdict(lab_server, design):
    """Chapter 1's own experiment: the subscriber comes and goes."""
    experiment = PubSubDelivery(design=design, fault="away", seed=7)
    seen = {verdict_and_picture(await experiment.run()) for _ in range(100)}
    assert len(seen) == 1
    ((verdict, _),) = seen
    assert len(verdict.lost) == (6 if design == "naive" else 0)


@pytest.mark.parametrize("fault", PUBSUB_FAULTS)
async def test_the_naive_version_breaks_in_the_same_way_every_time(lab_server, fault):
    """Every fault of the chapter, ten times: what the notebook stores is what everybody gets."""
    experiment = PubSubDelivery(
        design="naive", fault=fault, seed=7, duration=10 if fault == "slow" else 2
    )
    seen = {verdict_and_picture(await experiment.run()) for _ in range(10)}
    assert len(seen) == 1
    assert next(iter(seen))[0].lost


@pytest.mark.parametrize("fault", PUBSUB_FAULTS)
async def test_the_confirmed_design_loses_nothing_under_other_seeds_either(lab_server, fault):
    """Seeds that nobody chose for being pretty."""
    for seed in range(100, 105):
        result = await PubSubDelivery(
            design="confirmed", fault=fault, seed=seed, duration=10 if fault == "slow" else 3
        ).run()
        assert (result.verdict.lost, result.verdict.silently_lost) == ((), ())
