"""The policy hash: what hospitals approve and what every run, epoch and signature is bound to."""

from __future__ import annotations

from fedvlm_secure import canonical
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import Digest


def policy_hash(policy: Policy) -> Digest:
    """SHA-256 over the policy's values, defaults filled in, under the label `fedvlm/v1/policy`.

    `auto` is hashed as the word. A file is hashed as its SHA-256, wherever it lies and whatever it is called.
    Comments, key order and spelling (`30m` or `1800s`, `1e-3` or `0.001`) make no difference; every value does.
    """
    values = policy.model_dump(mode="python")
    values["model"]["base"].pop("path")
    vocabulary = policy.contract.vocabulary
    values["contract"]["vocabulary"] = vocabulary.sha256 if vocabulary.sha256 is not None else vocabulary.words
    return canonical.digest("policy", values)
