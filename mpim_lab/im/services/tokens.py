"""TokenService: tokens say who a client is, signed, for a short time, to be used once.

A token is a JSON Web Token (HS256): `sub` the user, `exp` when it ends, `jti` its own id. Whoever
has the secret can make them and check them, so every gateway has the same secret. A token that was
seen before is refused: `jti` is recorded on the server for as long as the token would still be
valid anywhere, with SET NX, so that of two uses one is first.

Source: RFC 7519 (JWT), RFC 8725 (best current practices: one algorithm, pinned).
"""

import secrets
import time
from collections.abc import Callable

import jwt

from mpim_lab.errors import InvalidParameter, InvalidToken
from mpim_lab.im.protocol.requests import checked_name
from mpim_lab.keys import name_bytes
from mpim_lab.mq.connection.bounds import check_times
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.pubsub.queue import MessageQueue

_ALGORITHM = "HS256"
_AUDIENCE = "mpim"
_SECRET_BYTES = 32
# a used token is remembered for so much longer: a gateway whose clock is behind would let it in
_CLOCK_SKEW_S = 60.0
_MAX_TTL_S = 366 * 86_400.0


def new_secret() -> str:
    """Make a secret that all gateways of one system share.

    Returns:
        43 random characters.
    """
    return secrets.token_urlsafe(_SECRET_BYTES)


class TokenService:
    """The token service.

    Issues tokens, and redeems each of them once.

    Args:
        secret: What tokens are signed with: at least 32 bytes.
        ttl_s: Seconds for which a new token may be used.
        clock: Seconds since 1970.

    Raises:
        InvalidParameter: The secret is too short, or `ttl_s` makes no sense.
    """

    def __init__(
        self, secret: str, *, ttl_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        try:
            is_long = len(secret.encode()) >= _SECRET_BYTES
        except UnicodeEncodeError as error:
            raise InvalidParameter(f"the secret holds half a character: {error.reason}") from error
        if not is_long:
            raise InvalidParameter(f"a secret has at least {_SECRET_BYTES} characters")
        check_times(ttl_s=ttl_s)
        self._secret, self._ttl_s, self._clock = secret, ttl_s, clock

    def issue(self, uid: str) -> str:
        """Make a token for a user.

        Args:
            uid: The user.

        Returns:
            The token, to be used once.

        Raises:
            InvalidParameter: `uid` is no name.
        """
        claims = {"sub": checked_name("uid", uid), "aud": _AUDIENCE, "jti": new_message_id()}
        return jwt.encode(
            claims | {"exp": self._clock() + self._ttl_s}, self._secret, algorithm=_ALGORITHM
        )

    async def redeem(self, token: str, queue: MessageQueue) -> str:
        """Use a token up.

        Args:
            token: What a client sent.
            queue: On whose server the token is recorded as used.

        Returns:
            The user whose token it is.

        Raises:
            InvalidToken: It is none of this system, has ended, or was used before.
            MpimError: What the connection raises.
        """
        uid, token_id, ends_at = self._verify(token)
        key, commands = queue.keys.used_token(token_id), queue.context(_AUDIENCE).connection
        keep_ms = int((ends_at - self._clock() + _CLOCK_SKEW_S) * 1e3)
        if await commands.call("SET", key, uid, "NX", "PX", str(keep_ms)) is None:
            raise InvalidToken("this token was used before")
        return uid

    def _verify(self, token: str) -> tuple[str, str, float]:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                # `exp` is compared with our clock below
                options={"require": ["exp", "sub", "jti"], "verify_exp": False},
            )
            uid, token_id = checked_name("uid", claims["sub"]), str(claims["jti"])
            ends_at = float(claims["exp"])
            name_bytes(token_id, "token's id")
        except (
            jwt.InvalidTokenError,
            InvalidParameter,
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise InvalidToken(f"not a token of this system: {error}") from error
        if ends_at <= self._clock():
            raise InvalidToken(f"this token ended {self._clock() - ends_at:.0f} s ago")
        if not ends_at - self._clock() < _MAX_TTL_S:  # also "not a number"
            raise InvalidToken("this token would be valid for more than a year")
        return uid, token_id, ends_at
