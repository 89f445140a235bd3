"""Who else could change a file, or read it, by owners and modes alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mxworker.system.permissions import Entry, Trusted, Who, changer, reader

US, OTHER, OUR_GROUP, THEIR_GROUP = 1000, 1001, 1000, 50
TRUSTED = Trusted(frozenset({0, US}), frozenset({0, OUR_GROUP}))


def directory(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0, has_acl: bool = False) -> Entry:
    return Entry(Path(path), stat.S_IFDIR | mode, uid, gid, has_acl)


def file(path: str, mode: int = 0o644, uid: int = US, gid: int = OUR_GROUP, has_acl: bool = False) -> Entry:
    return Entry(Path(path), stat.S_IFREG | mode, uid, gid, has_acl)


def link(path: str, uid: int = US) -> Entry:
    return Entry(Path(path), stat.S_IFLNK | 0o777, uid, OUR_GROUP)


ROOT, TMP = directory("/"), directory("/tmp", 0o1777)


@pytest.mark.parametrize(
    "way",
    [
        (ROOT,),
        (ROOT, directory("/srv"), file("/srv/app.py")),
        (ROOT, directory("/srv"), file("/srv/app.py", uid=0, gid=0)),
        (ROOT, TMP, directory("/tmp/shop", 0o700, US), file("/tmp/shop/app.py")),
        (ROOT, TMP, file("/tmp/app.py")),
        (ROOT, directory("/home", gid=OUR_GROUP), directory("/home/us", 0o775, US, OUR_GROUP)),
        (ROOT, directory("/app", 0o775), file("/app/app.py", 0o664, uid=0, gid=0)),
        (ROOT, TMP, link("/tmp/current"), ROOT, directory("/srv"), file("/srv/app.py")),
        (ROOT, link("/current", OTHER), directory("/srv")),
        (ROOT, directory("/app", 0o775, US, OUR_GROUP), file("/app/app.py", 0o640, US, THEIR_GROUP)),
    ],
)
def test_what_only_we_and_root_can_change_is_fine(way: tuple[Entry, ...]) -> None:
    assert changer(way, TRUSTED) is None


@pytest.mark.parametrize(
    ("way", "path", "who"),
    [
        ((ROOT, TMP), "/tmp", Who.EVERYBODY),
        ((ROOT, directory("/srv", 0o777), file("/srv/app.py")), "/srv", Who.EVERYBODY),
        ((ROOT, directory("/srv", uid=OTHER), file("/srv/app.py")), "/srv", Who.OWNER),
        ((ROOT, directory("/srv", 0o1777, OTHER), file("/srv/app.py")), "/srv", Who.OWNER),
        ((ROOT, TMP, directory("/tmp/shop", uid=OTHER), file("/tmp/shop/app.py")), "/tmp/shop", Who.OWNER),
        ((ROOT, file("/app.py", 0o646)), "/app.py", Who.EVERYBODY),
        ((ROOT, file("/app.py", 0o1646)), "/app.py", Who.EVERYBODY),
        ((ROOT, file("/app.py", uid=OTHER)), "/app.py", Who.OWNER),
        ((ROOT, file("/app.py", 0o664, gid=THEIR_GROUP)), "/app.py", Who.GROUP),
        ((ROOT, file("/app.py", 0o664, has_acl=True)), "/app.py", Who.GROUP),
        ((ROOT, directory("/srv", 0o775, gid=THEIR_GROUP), file("/srv/app.py")), "/srv", Who.GROUP),
        ((ROOT, TMP, link("/tmp/now", OTHER), ROOT, directory("/srv")), "/tmp/now", Who.OWNER),
        ((ROOT, link("/now"), ROOT, directory("/srv", 0o757), file("/srv/app.py")), "/srv", Who.EVERYBODY),
    ],
)
def test_what_others_can_change_is_told(way: tuple[Entry, ...], path: str, who: Who) -> None:
    access = changer(way, TRUSTED)
    assert access is not None
    assert (str(access.entry.path), access.who) == (path, who)


@pytest.mark.parametrize(
    "way",
    [
        (ROOT, file("/url", 0o600)),
        (ROOT, file("/url", 0o640)),
        (ROOT, file("/url", 0o640, uid=0, gid=0)),
        (ROOT, directory("/run", 0o700, US), file("/run/url", 0o444, uid=0, gid=0)),
        (ROOT, directory("/run", 0o750, US, OUR_GROUP), file("/run/url")),
        (
            ROOT,
            directory("/run", 0o500, US),
            directory("/run/unit", 0o755),
            file("/run/unit/url", 0o640, gid=THEIR_GROUP),
        ),
        (ROOT, directory("/run", 0o750, gid=OUR_GROUP), file("/run/url", 0o640, gid=THEIR_GROUP)),
        (ROOT, directory("/run", 0o750, gid=THEIR_GROUP), file("/run/url", 0o640, gid=OUR_GROUP)),
    ],
)
def test_what_only_we_and_root_can_read_is_fine(way: tuple[Entry, ...]) -> None:
    assert reader(way, TRUSTED) is None


@pytest.mark.parametrize(
    ("way", "who"),
    [
        ((ROOT, file("/url")), Who.EVERYBODY),
        ((ROOT, TMP, file("/tmp/url", 0o604)), Who.EVERYBODY),
        ((ROOT, directory("/run", 0o711), file("/run/url")), Who.EVERYBODY),
        ((ROOT, file("/url", 0o640, gid=THEIR_GROUP)), Who.GROUP),
        ((ROOT, file("/url", 0o440, has_acl=True)), Who.GROUP),
        ((ROOT, directory("/run", 0o750, gid=THEIR_GROUP), file("/run/url")), Who.GROUP),
        ((ROOT, directory("/run", 0o750, gid=THEIR_GROUP), file("/run/url", 0o640, gid=THEIR_GROUP)), Who.GROUP),
    ],
)
def test_what_others_can_read_is_told(way: tuple[Entry, ...], who: Who) -> None:
    access = reader(way, TRUSTED)
    assert access is not None
    assert access.who is who
    assert who is Who.EVERYBODY or access.entry.gid == THEIR_GROUP or access.entry.has_acl


def test_closed_directory_of_a_link_protects_nothing() -> None:
    way = (ROOT, directory("/home", 0o700, US), link("/home/url"), ROOT, directory("/srv"), file("/srv/url"))
    assert reader(way, TRUSTED) is not None
