"""A crowd of streams of which half hang up: afterwards the service is as it was before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import processes
import scripts
from service import Service, until

STREAMS = 200


async def _stream(address: tuple[str, int], *, read: int | None) -> str:
    """Open a stream and read so many bytes of it, then hang up; None reads it to its end."""
    reader, writer = await asyncio.open_connection(*address)
    body = b'{"messages": [{"role": "user", "content": "x"}], "stream": true}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                 b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    try:
        return (await reader.read() if read is None else await reader.readexactly(read) if read else b"").decode()
    finally:
        writer.close()


async def _crowd(address: tuple[str, int]) -> list[str]:
    """Open all streams at once: a quarter hang up before their first byte, a quarter after it."""
    plans = [None, None, 0, 300]
    return await asyncio.gather(*(_stream(address, read=plans[number % 4]) for number in range(STREAMS)))


def _figures(service: Service) -> dict[str, int]:
    app = service.pid("app")
    return {"processes": len(service.family()), "threads of app": len(os.listdir(f"/proc/{app}/task")),
            "descriptors of app": processes.descriptors(app),
            "descriptors of watchdog": processes.descriptors(service.process.pid),
            "descriptors of chat": processes.descriptors(service.pid("completion"))}


def _idle(service: Service) -> bool:
    lane = service.lane("completion")
    return (lane["active"], lane["queue"], lane["state"]) == (0, 0, "ready") and not processes.busy(service)


def test_200_streams_of_which_half_hang_up_leave_nothing_behind(
        start: Callable[..., Service], tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    service = start(MODEL_PATH=folder, MODEL_NAME=scripts.write(folder, scripts.slowly("", 0.2, pieces=10)),
                    EMBED_MODEL=scripts.write(folder, name="vectors", kind="embedding"), QUEUE_LIMIT=STREAMS,
                    CHAT_PROCESSES=4, DEBUG="true")  # DEBUG, or only root may count descriptors
    url = urlsplit(service.url)
    address = (str(url.hostname), int(url.port or 0))
    # The template says that it is ready before it has forked.
    until(lambda: len(service.family()) == 4, what="app, embed, template and one generation")
    figures = [_figures(service)]
    # The first crowd makes the service start its threads, which it keeps; a leak would show in the later ones.
    for _ in range(3):
        answers = asyncio.run(_crowd(address))
        whole = [answer for number, answer in enumerate(answers) if number % 4 < 2]
        assert all(answer.endswith("data: [DONE]\n\n") or "[DONE]" in answer for answer in whole), whole[0]
        until(lambda: _idle(service), within=60, what="idle")
        until(lambda: _figures(service)["processes"] == figures[0]["processes"], what="generations ended")
        figures.append(_figures(service))
    for name in figures[0]:
        print(f"{name}: " + " -> ".join(str(figure[name]) for figure in figures))
    before, first, *later = figures
    for figure in later:
        assert figure["processes"] == before["processes"]
        assert figure["threads of app"] <= max(first["threads of app"], STREAMS + 20)
        for name in ("descriptors of app", "descriptors of watchdog", "descriptors of chat"):
            assert figure[name] <= before[name] + 2, name
    assert not service.reports()
