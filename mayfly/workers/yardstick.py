"""Complete prompts by one build of llama.cpp, and tell what came and how long it took.

Started by `mayfly tune`, once for each build, with LLAMA_LIBRARY in its environment. Its arguments are a model's file,
the threads to compute with, and its parent's pid. It loads the model and writes `{}`; then each line of JSON on stdin -
`prompt`, `tokens` and `timed` - is answered by a line with `pieces` (of the answer, at temperature 0), `alternatives`
(unless it is timed, of each piece: the likeliest in its place and their log-probabilities), and the seconds that the
prompt and the tokens after the first took (`evaluated`, `generated`). What native code prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mayfly.compat.process import contain_native_code, die_with_parent, forbid_core_dumps, take_stdout
from mayfly.engines import choose
from mayfly.engines.base import CompletionEngine
from mayfly.errors import MayflyError
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import Sampling, ScoredToken

_WINDOW = 1024
_ALTERNATIVES = 5


def answer(engine: CompletionEngine, prompt: str, tokens: int, *, timed: bool) -> dict[str, Any]:
    """Return what is written for one line; see the module."""
    pieces: list[str] = []
    alternatives: list[dict[str, float | None]] = []
    moments = [time.perf_counter()]

    def take(piece: bytes | None, /, *scores: ScoredToken) -> bool:
        moments.append(time.perf_counter())
        pieces.append((piece or b"").hex())
        alternatives.extend({bytes(each.piece).hex(): each.logprob for each in score.alternatives} for score in scores)
        return True

    # Scores take time, so what is timed has none.
    sampling = Sampling(max_tokens=tokens, temperature=0.0, repeat_penalty=1.0,
                        logprobs=None if timed else _ALTERNATIVES)
    engine.generate([Segment(prompt, special=False)], sampling, lambda: True, take)
    first = moments[min(1, len(pieces))]
    return {"pieces": pieces, "alternatives": alternatives, "evaluated": first - moments[0],
            "generated": moments[-1] - first}


def main() -> None:
    """Answer until stdin ends."""
    told = os.fdopen(take_stdout(), "w")
    die_with_parent(int(sys.argv[3]))
    forbid_core_dumps()
    contain_native_code()
    path = Path(sys.argv[1])
    try:
        engine = choose.load_completions(path, int(sys.argv[2]), _WINDOW, "cpu", path.stem, engine="llamacpp")
    except MayflyError as exc:
        sys.exit(str(exc))
    print("{}", file=told, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, **json.loads(line))), file=told, flush=True)


if __name__ == "__main__":
    main()
