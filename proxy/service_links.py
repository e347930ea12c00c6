"""Variables that Kubernetes sets in every container, because a Service's name begins with `headway`."""

import re
from typing import Final

_SERVICE_LINK: Final = re.compile(
    r"(^|_)(service_host|service_port(_\w+)?|port_\d+_(tcp|udp|sctp)(_(proto|port|addr))?)$"
)


def is_service_link(key: str, value: str) -> bool:
    """Whether a variable, without its prefix HEADWAY_ and in lower case, is one of them and no setting."""
    return bool(
        _SERVICE_LINK.search(key) or (re.search(r"(^|_)port$", key) and re.match(r"(tcp|udp|sctp)://", value))
    )
