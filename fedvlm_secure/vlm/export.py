"""Hand over what was tuned in a form that plain transformers and peft load, without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedvlm_secure.errors import StorageError

if TYPE_CHECKING:
    from fedvlm_secure.vlm.adapters import TunedModel

CONNECTOR_FILE = "connector.safetensors"


def export_adapter(tuned: TunedModel, out_dir: Path) -> tuple[Path, ...]:
    """Write the LoRA factors as a PEFT directory and the connector as safetensors under the base's own names.

    To load: `model.load_state_dict(load_file("connector.safetensors"), strict=False)`, then
    `PeftModel.from_pretrained(model, out_dir)`. A part that the strategy does not train is not written.

    Args:
        tuned: at the difference to export.
        out_dir: made when missing.

    Returns:
        The files written.

    Raises:
        StorageError: EXPORT_FAILED.
    """
    from safetensors.torch import save_file

    from fedvlm_secure.vlm.adapters import canonical_name

    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if tuned.peft_model is not None:
            # the base's path on this machine is nobody's business
            tuned.peft_model.peft_config["default"].base_model_name_or_path = tuned.base.name
            # without the embedding check, which would ask a hub on the network for the base's config
            tuned.peft_model.save_pretrained(str(out_dir), safe_serialization=True, save_embedding_layers=False)
        if "connector" in tuned.strategy:
            wanted = frozenset(tuned.parts.connector)
            tensors = {
                canonical_name(name): parameter.detach().contiguous()
                for name, parameter in tuned.model.named_parameters()
                if canonical_name(name) in wanted
            }
            save_file(tensors, str(out_dir / CONNECTOR_FILE), metadata={"format": "pt"})
        (out_dir / "README.md").write_text(_card(tuned), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            "EXPORT_FAILED", f"{out_dir.name}: {error.strerror or type(error).__name__}", "check space and permissions"
        ) from error
    return tuple(sorted(path for path in out_dir.iterdir() if path.is_file()))


def _card(tuned: TunedModel) -> str:
    """Instead of PEFT's own card, which would hold the base's path and a page of blanks."""
    load = [
        "from peft import PeftModel",
        "from safetensors.torch import load_file",
        "from transformers import AutoModelForImageTextToText",
        "",
        'model = AutoModelForImageTextToText.from_pretrained("BASE", dtype="float32")',
    ]
    if "connector" in tuned.strategy:
        load.append(f'model.load_state_dict(load_file("{CONNECTOR_FILE}"), strict=False)')
    if tuned.peft_model is not None:
        load.append('model = PeftModel.from_pretrained(model, ".")')
    code = "\n".join(f"    {line}" if line else "" for line in load)
    return (
        f"# Adapter for {tuned.base.name}\n\nStrategy: {tuned.strategy}. Base fingerprint: {tuned.base.fingerprint}.\n"
        f"Not for clinical use.\n\nTo load, with BASE the directory of that base:\n\n{code}\n"
    )
