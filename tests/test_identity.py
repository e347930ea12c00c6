"""Who asks: what a key that names no class gets, and what one that names a wrong class is told."""

from hashlib import sha256

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.identity import Identities, KeySettings
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.policy import Fcfs

CHAT = ServiceClass("chat", Fcfs(), tier=0)
NIGHT = ServiceClass("night", Fcfs(), tier=1)


def known(**key: str) -> Identities:
    """One key, two classes, none of them called standard."""
    keys = [KeySettings(sha256=sha256(b"mine").hexdigest(), tenant="search", **key)]
    return Identities(keys, [CHAT, NIGHT], default_class="chat", trust_headers=False)


@pytest.mark.parametrize(("key", "expected"), [({}, CHAT), ({"class_name": "night"}, NIGHT)])
def test_a_key_that_names_no_class_has_the_default_one(key: dict[str, str], expected: ServiceClass) -> None:
    """As `default_class` promises; a class of its own wins."""
    headers = CIMultiDictProxy(CIMultiDict({"authorization": "Bearer mine"}))
    assert known(**key).identify(headers).service is expected


def test_a_key_that_names_an_unknown_class_is_refused_by_name() -> None:
    """With the tenant's name and the classes that there are."""
    with pytest.raises(ValueError, match=r"tenant search names the unknown class 'day'.* chat, night"):
        known(class_name="day")
