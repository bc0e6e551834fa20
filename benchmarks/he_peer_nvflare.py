"""NVFlare's homomorphic filters driven through their own functions. Runs in the peer's environment, never in ours.

    python benchmarks/he_peer_nvflare.py        # one JSON request a line on standard input, one JSON answer a line

A round is `HEModelEncryptor.encryption`, the encoder of its transport (`CKKSVector.serialize`), the decoder, the
weighted aggregation helper's adding, and `HEModelDecryptor.decryption`, under the context that its provisioning makes.
"""

# mypy: disable-error-code="import-not-found"
# (this file is run in another environment than the one that checks it)

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import tenseal as ts
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.lighter.impl.he import HEBuilder

Answer = dict[str, Any]


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result with its CPU seconds, all threads."""
    started = time.process_time()
    result = act()
    return result, time.process_time() - started


def round_of(nodes: int, dimension: int) -> Answer:
    """One round; CPU seconds of each stage, of one node or one node's share of the server's work."""
    builder = HEBuilder()
    builder.initialize(None, None)
    context = ts.context_from(builder.get_serialized_context(is_client=True))
    public = ts.context_from(builder.get_serialized_context())
    encryptor, decryptor = HEModelEncryptor(weigh_by_local_iter=False), HEModelDecryptor()
    encryptor.tenseal_context, encryptor.encrypt_layers = context, [True]
    decryptor.tenseal_context = context
    fl_ctx, helper = FLContext(), WeightedAggregationHelper(weigh_by_local_iter=False)
    cost = dict.fromkeys(("encrypt", "serialise", "parse", "add"), 0.0)
    total, size = np.zeros(dimension), 0
    for node in range(nodes):
        drawn = np.random.Generator(np.random.PCG64(node)).standard_normal(dimension, dtype=np.float32)
        update = drawn * np.float32(0.03)
        total += update
        (encrypted, _), spent = timed(partial(encryptor.encryption, {"w": update}, fl_ctx))
        cost["encrypt"] += spent / nodes
        raw, spent = timed(encrypted["w"].serialize)
        cost["serialise"] += spent / nodes
        size = len(raw)
        parsed, spent = timed(partial(ts.ckks_vector_from, public, raw))
        cost["parse"] += spent / nodes
        _, spent = timed(partial(helper.add, {"w": parsed}, 1.0, f"site-{node}", 0))
        cost["add"] += spent / nodes
    mean, spent = timed(helper.get_result)
    cost["add"] += spent / nodes
    published = mean["w"].serialize()
    opened, cost["decrypt"] = timed(lambda: decryptor.decryption({"w": published}, {"w": True}, fl_ctx))
    error = float(np.abs(np.asarray(opened["w"]) - total / nodes).max())
    facts = {"degree": builder.poly_modulus_degree, "moduli": builder.coeff_mod_bit_sizes}
    return {"cpu_s": cost, "bytes": size, "largest_error": error, "correct": error < 1e-3, "configuration": facts}


def answer(asked: Answer) -> Answer:
    """One request's answer."""
    match asked.pop("do"):
        case "versions":
            return {name: version(name) for name in ("nvflare", "tenseal", "numpy")}
        case "round":
            return round_of(**asked)
        case other:
            raise ValueError(f"no such request: {other}")


def main() -> None:
    out = sys.stdout
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):
            try:
                reply = answer(json.loads(line))
            except Exception as error:  # the other end is told whatever went wrong
                reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
