"""Complete prompts by one build of llama.cpp, and tell what came and how long it took.

Started by `mayfly tune`, once for each build, with LLAMA_LIBRARY in its environment. It loads the model that its first
argument names with as many threads as its second says, and writes `{}`; then each line of JSON on stdin - `prompt` and
`tokens` - is answered by a line with `pieces` (of the answer, at temperature 0), `alternatives` (of each piece: the
likeliest in its place and their log-probabilities), and the seconds that the prompt and the tokens after the first took
(`evaluated`, `generated`). What native code prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from mayfly.compat.process import WINDOWS, die_with_parent, forbid_core_dumps
from mayfly.engines import choose
from mayfly.errors import MayflyError
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import Sampling, ScoredToken

_WINDOW = 1024
_ALTERNATIVES = 5


def main() -> None:
    """Answer until stdin ends."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    die_with_parent(int(sys.argv[3]))
    forbid_core_dumps()
    if not WINDOWS:
        os.environ["PATH"] = os.devnull  # as in a worker
    path = Path(sys.argv[1])
    try:
        engine = choose.load_completions(path, int(sys.argv[2]), _WINDOW, "cpu", path.stem, engine="llamacpp")
    except MayflyError as exc:
        sys.exit(str(exc))
    print("{}", file=told, flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        pieces: list[str] = []
        alternatives: list[dict[str, float | None]] = []
        moments: list[float] = []

        def take(piece: bytes | None, /, *scores: ScoredToken, pieces: list[str] = pieces,
                 alternatives: list[dict[str, float | None]] = alternatives, moments: list[float] = moments) -> bool:
            moments.append(time.perf_counter())
            pieces.append((piece or b"").hex())
            for score in scores:
                alternatives.append({bytes(each.piece).hex(): each.logprob for each in score.alternatives})
            return True

        began = time.perf_counter()
        # Scores take time, so what is timed has none.
        sampling = Sampling(max_tokens=wanted["tokens"], temperature=0.0, repeat_penalty=1.0,
                            logprobs=None if wanted["timed"] else _ALTERNATIVES)
        engine.generate([Segment(wanted["prompt"], special=False)], sampling, lambda: True, take)
        print(json.dumps({"pieces": pieces, "alternatives": alternatives,
                          "evaluated": moments[0] - began if moments else 0.0,
                          "generated": moments[-1] - moments[0] if moments else 0.0}), file=told, flush=True)


if __name__ == "__main__":
    main()
