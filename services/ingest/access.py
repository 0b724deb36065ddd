"""Who may do what: which role each endpoint asks for. Pure."""

from __future__ import annotations

from typing import Final, Literal

Role = Literal["producer", "operator"]
ROLES: Final[tuple[Role, ...]] = ("producer", "operator")

OPEN: Final = frozenset({("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json")})
"""Endpoints that ask nobody who they are: what looks after the service has no token."""

PRODUCERS: Final = frozenset(
    {
        ("POST", "/v1/views"),
        ("POST", "/post_sentence"),
        ("POST", "/update_sentence"),
        ("GET", "/v1/contents/{cid}"),
        ("GET", "/v1/contents/{cid}/history"),
        ("GET", "/v1/levels"),
    }
)
"""Endpoints for producers and operators. All others, also those yet to be written, are for operators alone."""


def allowed(method: str, route: str) -> frozenset[Role]:
    """The roles that may use the endpoint `route`, written as the router does; none where nobody is asked."""
    if (method, route) in OPEN:
        return frozenset()
    return frozenset(ROLES) if (method, route) in PRODUCERS else frozenset({"operator"})
