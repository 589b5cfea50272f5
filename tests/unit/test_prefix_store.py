"""The prefix store's table: what it finds, keeps and refuses, and what a generation and its parent say of it."""

from __future__ import annotations

import gc
import os
import socket
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from mayfly.compat.memory import CAN_SEAL, sealed_content, sealed_memory, sealed_size
from mayfly.engines.prefixes import Found, Prefixes
from mayfly.workers import prefix_store
from mayfly.workers.prefix_store import PrefixStore, lent

pytestmark = pytest.mark.skipif(not CAN_SEAL, reason="this system has no memory that can be sealed")

SIZE = 1000


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Each descriptor that a test opens is closed."""
    gc.collect()  # what other tests have left to it would be closed meanwhile
    before = descriptors()
    yield
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def state(size: int = SIZE, content: bytes = b"x") -> int:
    def fill(memory: object) -> int:
        memory[:size] = content * size  # type: ignore[index]
        return size

    made = sealed_memory(size, fill)
    assert made is not None
    return made


def digests(*texts: str, namespace: str = "") -> list[bytes]:
    return Prefixes(namespace, 0, lambda found: Found(), lambda *kept: None).digests(
        [array("i", map(ord, text)) for text in texts])


@pytest.fixture
def store() -> Iterator[PrefixStore]:
    store = PrefixStore.of(10 * SIZE)
    assert store is not None
    yield store
    store.close()


def test_the_longest_state_is_found_and_what_an_earlier_prompt_began_with(store: PrefixStore) -> None:
    first = digests("You are Ada.", "Who are you?", "I am Ada.")
    assert store.find(first) == Found(0, 0)
    for count in (1, 2):
        store.keep(first[count - 1], 10 * count, state(content=b"%d" % count))
    other = digests("You are Ada.", "What is a lighthouse?")
    found = store.find(other)
    assert (found.held, found.seen) == (1, 1)
    assert found.state is not None and bytes(sealed_content(found.state)) == b"1" * SIZE
    found = store.find(first)
    assert (found.held, found.seen) == (2, 3)
    assert [vars(news) for news in store.news()] == [
        {"hits": 2, "misses": 1, "tokens_saved": 30, "states": 2, "bytes": 2 * SIZE}]
    assert store.news() == []


def test_a_digest_tells_callers_and_pieces_apart() -> None:
    assert digests("ab", "c")[0] == digests("ab", "d")[0]
    assert len({digests(*texts)[-1] for texts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""))}) == 4
    assert digests("ab", namespace="one") != digests("ab", namespace="other") != digests("ab")


def test_five_hundred_states_stay_within_the_bound_and_the_least_recently_used_leaves(store: PrefixStore) -> None:
    often = digests("You are Ada.")
    store.keep(often[0], 4, state())
    for number in range(500):
        made = digests(f"You are {number}.")
        store.find(made)
        store.keep(made[0], 4, state(SIZE + number))
        assert store.find(often).held == 1
        (told,) = store.news()
        assert told.bytes <= 10 * SIZE and told.states <= 10
    assert store.find(digests("You are 499.")).held == 1
    assert store.find(digests("You are 1.")).held == 0


def test_there_are_no_more_states_than_descriptors(store: PrefixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_store, "_MOST_STATES", 3)
    for number in range(5):
        store.keep(digests(str(number))[0], 1, state(8))
    assert store.news()[0].states == 3


def test_what_is_not_whole_too_large_or_there_already_is_not_kept(store: PrefixStore, tmp_path: Path) -> None:
    (digest,) = digests("You are Ada.")
    growing = os.memfd_create("mayfly", os.MFD_ALLOW_SEALING)
    os.write(growing, b"x" * SIZE)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for refused in (growing, file, state(10 * SIZE + 1)):
        store.keep(digest, 4, refused)
        assert store.find([digest]).held == 0
    store.keep(digest, 4, state())
    store.keep(digest, 4, state())
    assert store.news()[0].states == 1


def test_sealed_memory_can_be_read_and_neither_changed_nor_cut_short() -> None:
    made = state()
    assert sealed_size(made) == SIZE
    for change in (lambda: os.ftruncate(made, 1), lambda: os.pwrite(made, b"y", 0)):
        with pytest.raises(PermissionError):
            change()
    sealed_content(made)[0] = 1
    assert bytes(sealed_content(made)) == b"x" * SIZE
    os.close(made)
    assert sealed_memory(SIZE, lambda memory: SIZE - 1) is None


def test_a_generation_asks_its_parent_and_hands_states_back(store: PrefixStore) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def be_the_parent() -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(ours, prefix_store.LONGEST, 1)
            if not message:
                return
            store.hear(ours, message, descriptors)

    parent = threading.Thread(target=be_the_parent)
    parent.start()
    with ours:
        with theirs:
            prefixes = lent(theirs, 10 * SIZE, "me")
            asked = prefixes.digests([array("i", [number]) for number in range(1500)])
            assert prefixes.find(asked) == Found()
            taken: list[int] = []
            for count in (1000, 1400):
                prefixes.offer(asked[count - 1], count, lambda count=count: taken.append(count) or state(count))
            prefixes.offer(asked[-2], 1499, lambda: None)
            prefixes.hand_back()
            prefixes.hand_back()
            assert taken == [1400, 1000]
            found = prefixes.find(asked)
            assert (found.held, found.seen) == (1400, 1500)
            assert found.state is not None and sealed_size(found.state) == 1400
            os.close(found.state)
        parent.join()


def test_a_generation_without_an_answer_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_store, "_PATIENCE", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert lent(theirs, SIZE, "me").find(digests("You are Ada.")) == Found()


def test_no_memory_is_no_store() -> None:
    assert PrefixStore.of(0) is None
