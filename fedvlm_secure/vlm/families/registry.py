"""All families that have a prompt form here. A new one is one file and one entry."""

from __future__ import annotations

from types import MappingProxyType

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.families.form import Family
from fedvlm_secure.vlm.families.fuyu import FUYU
from fedvlm_secure.vlm.families.llava import LLAVA

FAMILIES = MappingProxyType({family.model_type: family for family in (FUYU, LLAVA)})


def family_of(model_type: str) -> Family:
    """The family of a model.

    Args:
        model_type: as in config.json.

    Raises:
        ModelError: FAMILY_NOT_SUPPORTED.
    """
    found = FAMILIES.get(model_type)
    if found is None:
        raise ModelError(
            "FAMILY_NOT_SUPPORTED",
            f"the family {model_type} has no prompt form here yet",
            f"use a base of the families {', '.join(sorted(FAMILIES))}",
        )
    return found
