"""Asking for a bearer token before anything else is looked at."""

from __future__ import annotations

from typing import Any

from aiohttp import hdrs, web

from services.ingest.access import Role, allowed
from services.ingest.problems import Handler, ProblemError
from services.ingest.tokens import Holder, Tokens
from shared.log import Log

_REALM = 'Bearer realm="reshelve"'


class UnauthorizedError(ProblemError):
    """401: no token, or one that nobody holds."""

    def __init__(self, detail: str, error: str = "") -> None:
        """`error` is the code of RFC 6750; there is none for a request without a token."""
        super().__init__(401, detail, headers={hdrs.WWW_AUTHENTICATE: _challenge(error)})


class ForbiddenError(ProblemError):
    """403: the token is good, but not for this."""

    def __init__(self, holder: Holder, roles: frozenset[Role]) -> None:
        """`roles` are those that may."""
        needed = " or ".join(sorted(roles))
        super().__init__(
            403,
            f"this is for the token of an {needed}, yours is a {holder.role}'s: use another token",
            headers={hdrs.WWW_AUTHENTICATE: _challenge("insufficient_scope")},
        )


def asks_for_tokens(tokens: Tokens, log: Log) -> Any:
    """The middleware; it raises problems."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is None:
            # No such path, or no such method there: whoever has a token may know.
            _holder(request, tokens)
            return await handler(request)
        roles = allowed(request.method, resource.canonical)
        if roles:
            holder = _holder(request, tokens)
            if holder.role not in roles:
                log.info("forbidden", method=request.method, route=resource.canonical, holder=holder.name)
                raise ForbiddenError(holder, roles)
        return await handler(request)

    return middleware


def _holder(request: web.Request, tokens: Tokens) -> Holder:
    values = request.headers.getall(hdrs.AUTHORIZATION, [])
    if not values:
        raise UnauthorizedError("a token is needed: send it as `Authorization: Bearer <token>`")
    if len(values) > 1:
        raise UnauthorizedError("Authorization is there more than once: send it once", "invalid_token")
    scheme, _, token = values[0].strip().partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthorizedError("a bearer token is needed: send it as `Authorization: Bearer <token>`")
    holder = tokens.holder(token.strip().encode(errors="surrogateescape"))
    if holder is None:
        raise UnauthorizedError("nobody holds this token: ask the operator for one in force", "invalid_token")
    return holder


def _challenge(error: str) -> str:
    return f'{_REALM}, error="{error}"' if error else _REALM
