"""Two package versions take part in one run only where the policy, and so the manifest, names both."""

from __future__ import annotations

import pytest

import fedvlm_secure
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.rounds.aggregator_setup import AggregatorSetup
from fedvlm_secure.rounds.manifest import versions_of
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort, numeric_policy
from tests.support.liars import restate

OWN, OTHER = fedvlm_secure.__version__, "99.0.0"


def refusal(versions: tuple[str, ...], spoken: str) -> str:
    """What a node of version `spoken` is told in a run whose policy names `versions`."""
    cohort = Cohort(4, cohort={"versions": versions})
    own = cohort.federation.nodes[NodeId("a")].own
    error = AggregatorSetup(cohort.federation.aggregator_self).check_hello(
        restate(own.hello(), own.signer, version=spoken)
    )
    return "" if error is None else error.code


@pytest.mark.parametrize(
    ("versions", "spoken", "code"),
    [
        ((), OWN, ""),
        ((), OTHER, "VERSION_MISMATCH"),
        ((OWN, OTHER), OTHER, ""),
        ((OWN, OTHER), "98.0.0", "VERSION_MISMATCH"),
    ],
)
def test_other_version_is_taken_only_by_name(versions: tuple[str, ...], spoken: str, code: str) -> None:
    assert refusal(versions, spoken) == code


def test_run_of_two_named_versions_says_so_in_its_manifest() -> None:
    cohort = Cohort(4, dimension=20, cohort={"versions": (OTHER, OWN)})
    cohort.run()
    manifest = cohort.federation.aggregator_self.memory.manifest
    assert manifest.versions == tuple(sorted((OWN, OTHER)))


def test_party_whose_version_the_policy_does_not_name_does_not_begin() -> None:
    with pytest.raises(PolicyError) as caught:
        versions_of(numeric_policy(cohort={"versions": (OTHER,)}))
    assert caught.value.code == "VERSION_MISMATCH"


@pytest.mark.parametrize("versions", [(OWN, OWN), ("",), ("one two",), ("../x",)])
def test_versions_that_are_none_are_refused(versions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        numeric_policy(cohort={"versions": versions})
