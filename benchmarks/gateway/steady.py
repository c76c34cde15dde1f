"""A simulated endpoint whose steps take the same time whatever is in them: ``steady STEP_MS SEATS``."""

from __future__ import annotations

import signal
import sys

from benchmarks.gateway.clients import MODEL

from sage.llm.simulated import Profile, SimulatedEndpoint


def main(step_ms: float, seats: int) -> None:
    profile = Profile(
        "steady", MODEL, step_s=step_ms * 1e-3, weights_s=0.0, token_s=0.0, context_s=0.0, attention_s=0.0,
        blocks=65_536, max_seqs=seats,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with SimulatedEndpoint(profile) as endpoint:
        print(f"{endpoint.url}/v1", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
